#!/bin/sh
# Make the virtual environment $1 with the packages of the file $2. It sees those of .venv, too, from which it is made.
set -eu
rm -rf "$1"
.venv/bin/python -m venv "$1"
where='import sysconfig; print(sysconfig.get_path("purelib"))'
.venv/bin/python -c "$where" >"$("$1/bin/python" -c "$where")/patch2tissue_venv.pth"
"$1/bin/python" -m pip install --quiet --quiet --disable-pip-version-check -r "$2"
