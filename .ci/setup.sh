#!/usr/bin/env bash
# What the Makefile needs of this machine: found, or installed as root or with sudo, or named with the command to type.
#
#   setup.sh build    what building .venv takes; prints the Python to use, and nothing else, on standard output
#   setup.sh mount    what mounting takes: fusermount3, /dev/fuse
#   setup.sh tests    what the tests take: that, a few programs, and a desktop without a screen
#   setup.sh deb      what building Debian packages takes: a maker of small Debian systems, and a check
#
# Installs only what is missing. PYTHON=/path/to/python3.12 chooses the Python.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "setup: $*"
  exit 1
}

TEST_PROGRAMS="findmnt:util-linux fish:fish groff:groff-base jq:jq less:less lsof:lsof man:man-db openssl:openssl ps:procps rsync:rsync systemctl:systemd tree:tree zsh:zsh"
# A desktop without a screen, for tests/desktop: a display, a session bus, a file manager and an editor, what looks at them
# and clicks, what they look like. A path stands for a package without a program.
DESKTOP_PROGRAMS="Xvfb:xvfb dbus-daemon:dbus thunar:thunar mousepad:mousepad xdotool:xdotool import:imagemagick"
DESKTOP_PROGRAMS+=" gio:libglib2.0-bin update-mime-database:shared-mime-info desktop-file-validate:desktop-file-utils"
DESKTOP_PROGRAMS+=" /usr/libexec/at-spi-bus-launcher:at-spi2-core /usr/lib/python3/dist-packages/gi:python3-gi"
DESKTOP_PROGRAMS+=" /usr/lib/*/girepository-1.0/Atspi-2.0.typelib:gir1.2-atspi-2.0 /usr/share/icons/Adwaita:adwaita-icon-theme"
DESKTOP_PROGRAMS+=" /usr/lib/*/gdk-pixbuf-2.0/*/loaders/libpixbufloader*svg.so:librsvg2-common"
DESKTOP_PROGRAMS+=" nautilus:nautilus dolphin:dolphin /usr/share/doc/kio-extras:kio-extras xfconf-query:xfconf"
DESKTOP_PROGRAMS+=" /usr/share/fonts/opentype/cantarell:fonts-cantarell"

is_root() { [ "$(id -u)" = 0 ]; }

as_root() {
  if is_root; then
    "$@"
  elif command -v sudo >/dev/null; then
    # Without a terminal there is nobody to type a password.
    if [ -t 0 ]; then sudo "$@"; else sudo -n "$@"; fi
  else
    return 1
  fi
}

# Says nothing unless it fails: then everything.
apt() {
  local said
  said=$(as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get -o DPkg::Lock::Timeout=120 -q "$@" 2>&1) || {
    say "$said"
    return 1
  }
}

# need PACKAGE...
need() {
  [ $# -gt 0 ] || return 0
  local by_hand="missing: $*; as root, run: apt-get update && apt-get install --no-install-recommends $*"
  command -v apt-get >/dev/null ||
    fail "missing, by Debian's names: $*; install them with this system's package manager"
  is_root || command -v sudo >/dev/null || fail "$by_hand"
  say "setup: installing with apt-get, in a minute or two: $*"
  apt update || say "setup: the package lists could not be updated; trying with those at hand"
  apt install --yes --no-install-recommends "$@" || fail "$by_hand"
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local name path
  for name in ${PYTHON:-python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11}; do
    path=$(command -v "$name") && is_new_enough "$path" || continue
    "$path" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
    return
  done
}

has_module() { "$1" -c "import $2" 2>/dev/null; }

has_headers() {
  "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

no_python() {
  fail "Python 3.11 or newer is needed, and ${PYTHON:-python3} is $("${PYTHON:-python3}" -V 2>/dev/null || echo missing):" \
    "install one, then run: make PYTHON=/path/to/python3.11 …"
}

for_building() {
  local python missing=() name
  python=$(find_python)
  case $python in
    "")
      [ -z "${PYTHON:-}" ] && [ ! -e /usr/bin/python3 ] || no_python
      missing+=(python3 python3-venv python3-dev)
      ;;
    /usr/bin/*)
      name=$(basename "$python")
      [ "$(readlink -f "$python")" != "$(readlink -f /usr/bin/python3)" ] || name=python3
      has_module "$python" ensurepip || missing+=("$name-venv")
      has_headers "$python" || missing+=("$name-dev")
      ;;
    *)
      has_module "$python" ensurepip || fail "$python has no module venv: install it, or choose another with make PYTHON=…"
      has_headers "$python" || fail "$python has no C headers (Python.h): install them, or choose another with make PYTHON=…"
      ;;
  esac
  # pyfuse3 is compiled on this machine: it has no wheels.
  command -v gcc >/dev/null && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || missing+=(gcc libc6-dev)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  pkg-config --exists fuse3 2>/dev/null || missing+=(libfuse3-dev)
  # Who has to ask root for something should have to ask once.
  [ ${#missing[@]} = 0 ] || missing+=($(missing_programs fusermount3:fuse3 $TEST_PROGRAMS))
  need "${missing[@]}"
  [ -n "$python" ] || python=$(find_python)
  [ -n "$python" ] || no_python
  echo "$python"
}

for_mounting() {
  need $(missing_programs fusermount3:fuse3)
  device
}

for_tests() {
  need $(missing_programs fusermount3:fuse3 $TEST_PROGRAMS $DESKTOP_PROGRAMS)
  nginx_alone
  device
}

for_deb() {
  local programs="mmdebstrap:mmdebstrap lintian:lintian /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring"
  # A user's own root is in a user namespace.
  is_root || programs+=" newuidmap:uidmap"
  need $(missing_programs $programs)
}

# nginx, of which the tests run one of their own: Debian would start the system's, now and at each boot.
nginx_alone() {
  local policy=/usr/sbin/policy-rc.d made="" code=0
  [ -z "$(PATH=$PATH:/usr/sbin command -v nginx)" ] || return 0
  if [ ! -e "$policy" ] && printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null; then
    made=yes
    as_root chmod 755 "$policy"
  fi
  (need nginx) || code=$?
  [ -z "$made" ] || as_root rm -f "$policy"
  [ "$code" = 0 ] || exit "$code"
  ! command -v systemctl >/dev/null || as_root systemctl --quiet disable nginx 2>/dev/null || true
}

# missing_programs PROGRAM:PACKAGE...: the packages of those that are missing. A program may be a path, or a
# pattern of paths.
missing_programs() {
  local pair
  for pair; do
    command -v "${pair%:*}" >/dev/null || { [[ $pair == /* ]] && compgen -G "${pair%:*}" >/dev/null; } || echo "${pair#*:}"
  done
}

device() {
  [ -e /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
  [ -e /dev/fuse ] ||
    fail "/dev/fuse is missing; as root, run: modprobe fuse (a container has to be started with --device /dev/fuse --cap-add SYS_ADMIN)"
  # 0666 is what udev gives it; some containers have no udev.
  if is_root; then
    [ "$(stat -c %a /dev/fuse)" = 666 ] || chmod 666 /dev/fuse || true
  elif ! [ -r /dev/fuse ] || ! [ -w /dev/fuse ]; then
    as_root chmod 666 /dev/fuse || fail "/dev/fuse may not be opened by $(id -un); as root, run: chmod 666 /dev/fuse"
  fi
}

case ${1:-} in
  build) for_building ;;
  mount) for_mounting ;;
  tests) for_tests ;;
  deb) for_deb ;;
  *) fail "usage: setup.sh build | mount | tests | deb" ;;
esac
