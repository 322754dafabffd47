#!/usr/bin/env bash
# The Debian package, in a fresh system of one release that is gone afterwards (mmdebstrap):
#
#   deb.sh build RELEASE    from dist/artifactfs-….tar.gz to dist/artifactfs_…_….deb, past that release's lintian
#   deb.sh test RELEASE     as root: .ci/deb_test.sh, in a system that has nothing but apt and what is essential
#
# RELEASE: bookworm or trixie. Packages come from where apt and pip of this machine get theirs. `build` takes no root where
# users may make user namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."

do=$1 release=$2
case $release in
  bookworm) number=12 ;;
  trixie) number=13 ;;
  *) echo "deb.sh: $release is neither bookworm nor trixie" >&2; exit 2 ;;
esac
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' artifactfs/__init__.py)
# A pre-release sorts before its release; a package of Debian's own, and that of the next release, after ours.
debian=$(sed -E 's/\.?(a|b|rc|dev)[0-9]+$/~&/' <<<"$version")-1~deb$number
package=artifactfs_${debian}_$(dpkg --print-architecture).deb

scratch=$(mktemp -d)
trap 'rm -rf --one-file-system "$scratch"' EXIT
# mmdebstrap may be another user, of a namespace of its own.
chmod 755 "$scratch"

# How this machine reaches its archive, as apt says it; without one of Debian's, mmdebstrap knows where it is.
apt-config dump Acquire | grep -iE 'proxy|verify|valid-until|cainfo' >"$scratch/apt.conf" || true
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p)
sources=() # What stands there for a mirror is read from standard input.
[ -z "$archive" ] || sources=(-)

# system HOOK...: a fresh system of the release, and in it each command of the hooks.
system() {
  local hooks=() hook
  for hook; do hooks+=(--customize-hook="$hook"); done
  mmdebstrap --quiet --variant=minbase --aptopt="$scratch/apt.conf" --dpkgopt=force-unsafe-io "${hooks[@]}" "$release" /dev/null "${sources[@]}" \
    <<<"deb $archive $release main"
}

case $do in
  build)
    root=$scratch/root
    mkdir -p "$root/source"
    # pip's index, without what lies on this machine.
    config=$(.venv/bin/python -m pip config list)
    printf '[global]\n' >"$root/pip.conf"
    for setting in index-url extra-index-url trusted-host proxy; do
      sed -nE "/file:/d; s|^[^=]*\.$setting='([^']*)'\$|$setting = \1|p" <<<"$config" | tail -n 1
    done >>"$root/pip.conf"
    # What stands for the certificates of the system: a proxy may sign its own.
    cp "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$root/ca.crt"
    unset "${!PIP_@}" REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR
    tar -xzf "dist/artifactfs-$version.tar.gz" --strip-components=1 -C "$root/source"
    cp -r .ci/debian "$root/source/debian"
    cat >"$root/source/debian/changelog" <<CHANGELOG
artifactfs ($debian) $release; urgency=medium

  * Version $version: see changelog.gz.

 -- $(sed -n 's/^Maintainer: //p' .ci/debian/control)  $(date -R)
CHANGELOG
    needs=$(sed -n 's/^Build-Depends: //p' .ci/debian/control)
    echo "$package: building (a minute or two)"
    system \
      "sync-in '$root' /root" \
      "chroot \"\$1\" apt-get satisfy -qq --yes --no-install-recommends '$needs'" \
      'chroot "$1" mv /root/ca.crt /etc/ssl/certs/ca-certificates.crt' \
      'chroot "$1" env PIP_CONFIG_FILE=/root/pip.conf make -C /root/source -f debian/rules binary' \
      "copy-out '/root/$package' dist" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
    lintian --profile debian --fail-on error --allow-root "dist/$package"
    ;;
  test)
    [ "$(id -u)" = 0 ] || { echo "deb.sh: mounting in a system of its own takes root: sudo make test-deb" >&2; exit 1; }
    echo "$package: installing it in a bare system (half a minute)"
    system \
      "copy-in 'dist/$package' .ci/deb_test.sh /root" \
      "chroot \"\$1\" bash /root/deb_test.sh '/root/$package' '$version'"
    ;;
esac
