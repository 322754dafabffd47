#!/usr/bin/env bash
# What `make release` has built, and what publishing it takes. Publishes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' artifactfs/__init__.py)
echo
echo "artifactfs $version:"
(cd dist && sha256sum -- *)

echo
echo "Before it is published:"
left=0
todo() { echo "  - $1" && left=1; }
grep -qE "^## $version, [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
  todo "give $version its date in CHANGELOG.md: \"## $version, $(date +%F)\""
[ -z "$(git status --porcelain)" ] || todo "commit what has changed, and build again"
[ -z "$(git tag --list "v$version")" ] || [ "$(git rev-list -n 1 "v$version")" = "$(git rev-parse HEAD)" ] ||
  todo "take another version in artifactfs/__init__.py (then: make man): v$version is another commit"
[ "$left" = 1 ] || echo "  nothing is left to do"

echo
echo "To publish it, which nothing here does:"
echo "  git tag --annotate v$version --message 'artifactfs $version' && git push origin v$version"
echo "  .venv/bin/twine upload dist/artifactfs-$version.tar.gz dist/artifactfs-$version-*.whl"
echo "  and on the page of the release of v$version: dist/*.deb"
