#!/bin/sh
# Build the source distribution and, from it, the wheel; install the wheel into an empty environment with the versions
# of requirements.lock; use it from a folder in which no source lies. Leaves both files in dist/.
set -eu
cd "$(dirname "$0")/.."
python=$(pwd)/.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf dist
"$python" -m hatchling build -t sdist -d "$work" >/dev/null
tar -xzf "$work"/patch2tissue-*.tar.gz -C "$work"
(cd "$work"/patch2tissue-*/ && "$python" -m hatchling build -t wheel -d "$work" >/dev/null)
mkdir -p dist
mv "$work"/patch2tissue-*.tar.gz "$work"/patch2tissue-*.whl dist/
wheel=$(ls "$(pwd)"/dist/*.whl)
echo "built $(basename "$wheel") from $(basename "$(ls dist/*.tar.gz)")"

# versions without their hashes, which pip does not take for packages that a wheel asks for
sed -n 's/^\([A-Za-z0-9_.-]*\(\[[a-z,-]*\]\)\{0,1\}==[^\\]*\).*/\1/p' requirements.lock | sed 's/\[[a-z,-]*\]//' >"$work/versions.txt"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --only-binary :all: \
    --constraint "$work/versions.txt" "patch2tissue[viewer] @ file://$wheel"
cd "$work"
bin=$work/venv/bin
"$bin/python" -m pip check
"$bin/patch2tissue" --version
"$bin/patch2tissue" doctor >doctor.txt || { cat doctor.txt; exit 1; }
small="--set data.path=patches --set data.source.train=24 --set data.source.val=0 --set data.source.test=4 --set data.source.size=64"
small="$small --set craanet.epochs=1 --set pfscnet.epochs=1 --set comparisons.cam_pipeline=false"
small="$small --set comparisons.full_supervision=false --set comparisons.cross_entropy_only=false"
# shellcheck disable=SC2086
"$bin/patch2tissue" --quiet demo --out run $small
"$bin/patch2tissue" --quiet predict run patches/test/img --out maps
ls run/report.html run/scores.json maps/areas.csv
echo "the wheel works where nothing else of patch2tissue is"
