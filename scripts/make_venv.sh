#!/bin/sh
# Make the virtual environment $1 from requirements.lock, with uv where it is on the PATH, else with venv and pip.
# Run by `make` when the environment is missing or older than requirements.lock or pyproject.toml.
set -eu
venv=${1:-.venv}
cd "$(dirname "$0")/.."
least="import sys; sys.exit(sys.version_info < (3, 11))"

fail() {
    printf 'make: %s\n' "$@" >&2
    exit 1
}

# The first Python that is new enough; $1 is a further condition, as Python code that raises if it does not hold.
find_python() {
    for name in python3.13 python3.12 python3.11 python3 python; do
        if "$name" -c "$least" >/dev/null 2>&1 && "$name" -c "$1" >/dev/null 2>&1; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

# An environment that is there and whose Python still runs is brought up to date instead of made again.
usable() { "$venv/bin/python" -c "$least" >/dev/null 2>&1; }

if command -v uv >/dev/null 2>&1; then
    echo "Installing patch2tissue into $venv with uv (some minutes the first time) ..."
    if ! usable; then
        python=$(find_python "")
        # Without a Python on the PATH uv looks further, and may fetch one.
        uv venv --quiet --clear --python "${python:->=3.11,<3.14}" "$venv" ||
            fail "uv found no Python 3.11 or newer." "Install one (https://www.python.org/downloads/) and run make again."
    fi
    # Copying works on every file system; quiet about it where hard links do not.
    uv pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements.lock
    uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
else
    if ! usable || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python "import ensurepip, ssl, venv")
        if [ -z "$python" ]; then
            [ -z "$(find_python "")" ] || fail \
                "$(find_python "") is new enough, but cannot make a virtual environment: its venv or ensurepip module is missing." \
                "On Debian or Ubuntu: apt install python3-venv. Or install uv (https://docs.astral.sh/uv/)." \
                "Then run make again."
            fail "found no Python 3.11 or newer (looked for python3.13, python3.12, python3.11, python3, python)." \
                "Install one (https://www.python.org/downloads/), or uv (https://docs.astral.sh/uv/), and run make again."
        fi
        echo "Making $venv with $python ..."
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    echo "Installing patch2tissue into $venv with pip (some minutes the first time) ..."
    # --no-build-isolation: the build backend is in the lock too, so nothing outside it is fetched.
    install="$venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check"
    $install --require-hashes -r requirements.lock || fail "pip could not install requirements.lock." \
        "To see why: $venv/bin/python -m pip install --require-hashes -r requirements.lock"
    $install --no-deps --no-build-isolation --editable .
fi
"$venv/bin/python" -c "import torch, torchvision.ops" ||
    fail "torch and torchvision do not fit each other." "Remove $venv and run make again; then see \`$venv/bin/patch2tissue doctor\`."
