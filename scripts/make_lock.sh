#!/bin/sh
# Rewrite requirements.lock from pyproject.toml: every package, one version, hashes, no addresses.
# `sh scripts/make_lock.sh keep` keeps the versions that are locked and adds what is missing.
set -eu
cd "$(dirname "$0")/.."

if ! command -v uv >/dev/null 2>&1; then
    echo "make lock needs uv (https://docs.astral.sh/uv/) on the PATH." >&2
    exit 1
fi
upgrade=--upgrade
[ "${1:-}" != keep ] || upgrade=
new=$(mktemp) pins=$(mktemp)
cp requirements.lock "$pins"
trap 'rm -f "$new" "$pins"' EXIT
{
    echo "# All packages that patch2tissue, its tests and its documentation need, for Python 3.11 to 3.13 on any system."
    echo "# Made by \`make lock\` from pyproject.toml; do not edit by hand."
    # --no-strip-extras: pip takes a pin of `coverage` for `coverage[toml]` too only while no newer version is out.
    # shellcheck disable=SC2086
    uv pip compile pyproject.toml --extra viewer --group dev --group docs --universal --python-version 3.11 $upgrade \
        --output-file "$pins" --no-strip-extras --generate-hashes --no-annotate --no-header --no-emit-index-url \
        --no-emit-find-links --quiet
    cat "$pins"
} >"$new"
if grep -n '://' "$new" >&2; then
    echo "The lock holds an address; it must hold names, versions and hashes only. Nothing was written." >&2
    exit 1
fi
cat "$new" >requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages"
