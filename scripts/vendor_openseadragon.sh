#!/bin/sh
# Put OpenSeadragon, which the viewer runs on in the browser, into the package: from the npm registry, by npm.
# The version and the hash of what is fetched are fixed here; nothing of it is kept in git.
set -eu
cd "$(dirname "$0")/.."
version=6.1.1
hash=b4ab2942f33b90e0448e4d20fc5ed14cee049f1f3ae49d70afd4b05e9a2f92d0
target=src/patch2tissue/viewer/static/openseadragon

[ "$(cat "$target/VERSION" 2>/dev/null)" != "$version" ] || exit 0
if ! command -v npm >/dev/null 2>&1; then
    echo "No npm here, so \`patch2tissue view\` will not work from this checkout (all else will). Install Node.js and run" >&2
    echo "sh scripts/vendor_openseadragon.sh" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "openseadragon@$version" >/dev/null) || { echo "npm could not fetch OpenSeadragon." >&2; exit 1; }
digest='console.log(crypto.createHash("sha256").update(fs.readFileSync(process.argv[1])).digest("hex"))'
found=$(node -e "$digest" "$work"/*.tgz)
if [ "$found" != "$hash" ]; then
    echo "OpenSeadragon $version is not what it was: its hash is $found. Nothing was written." >&2
    exit 1
fi
tar -xzf "$work"/*.tgz -C "$work"
mkdir -p "$target"
cp "$work/package/build/openseadragon/openseadragon.min.js" "$work/package/LICENSE.txt" "$target/"
# the map of the source is not shipped
sed -i.old '/^\/\/# sourceMappingURL=/d' "$target/openseadragon.min.js" && rm -f "$target/openseadragon.min.js.old"
echo "$version" >"$target/VERSION"
