#!/usr/bin/env bash
# In a bare system, as root: installs the package, uses it as an ordinary user and through mount(8), upgrades, and purges
# it. For .ci/deb.sh: deb_test.sh PACKAGE VERSION
set -euo pipefail
package=$1 version=$2

say() { printf -- '--- %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# A login has none of the caller's variables.
alice() { runuser -l alice -c "$*"; }
install() { apt-get install --yes -qq "$@" >/root/said 2>&1 || { cat /root/said; fail "apt-get install $*"; }; }

ended() {
  umount --lazy /home/alice/model-lab /mnt/lab 2>/dev/null || true
  [ -z "${serving:-}" ] || kill "$serving"
}
trap ended EXIT

say "an earlier version, which had a module more"
dpkg-deb --raw-extract "$package" /root/earlier
sed -i 's/^Version: .*/Version: 0.0.1/' /root/earlier/DEBIAN/control
modules=$(echo /root/earlier/usr/lib/artifactfs/lib/python3*/site-packages/artifactfs)
echo 'GONE = True' >"$modules/gone.py"
dpkg-deb --build -Znone /root/earlier /root/earlier.deb >/dev/null
rm -r /root/earlier
modules=${modules#/root/earlier}
install /root/earlier.deb
for program in cc gcc pip pip3 pkg-config; do
  ! command -v "$program" || fail "$program was installed, too"
done
[ -n "$(find "$modules/__pycache__" -name 'gone.*.pyc')" ] || fail "modules are not compiled"

say "an ordinary user, and a mount that outlives the upgrade"
# The mount of a container engine's /dev has none.
[ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
useradd --create-home --shell /bin/bash alice
alice "artifactfs demo --background model-lab"
alice "find model-lab/runs/70158 -type f | wc -l" | grep -qx 19 || fail "run 70158 of the sample has 19 files"

install "$package"
[ "$(dpkg-query -W -f '${Version}' artifactfs)" != 0.0.1 ] || fail "it was not upgraded"
[ -z "$(find "$modules" -name 'gone.*')" ] || fail "the upgrade left gone.py, or what was compiled of it"
[ "$(alice artifactfs --version)" = "artifactfs $version" ] || fail "artifactfs --version"
alice "grep -q '^# Notes' model-lab/runs/70158/lora_model/README.md" || fail "the mount did not outlive the upgrade"
alice "artifactfs status && artifactfs umount model-lab"

say "mount(8), and what else there is"
mkdir -p /srv/runs/12 /mnt/lab
echo 'loss 0.25' >/srv/runs/12/log
artifactfs serve /srv/runs --port 8123 >/root/serving 2>&1 & serving=$!
for _ in $(seq 100); do grep -q 8123 /root/serving && break; sleep 0.1; done
(umask 077 && echo demo-api-key >/root/api && echo demo-app-key >/root/app)
mount -t artifactfs http://127.0.0.1:8123 /mnt/lab -o allow_other,api_key_file=/root/api,app_key_file=/root/app
[ "$(alice cat /mnt/lab/runs/12/log)" = 'loss 0.25' ] || fail "a mount by mount(8)"
umount /mnt/lab
bash -n /usr/share/bash-completion/completions/artifactfs
grep -qx '#compdef artifactfs' /usr/share/zsh/vendor-completions/_artifactfs
grep -q 'complete .*--command artifactfs' /usr/share/fish/vendor_completions.d/artifactfs.fish
for unit in artifactfs.service artifactfs@.service; do
  program=$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "/usr/lib/systemd/user/$unit")
  [ -x "$program" ] || fail "$unit starts $program"
done
! grep -r '@[A-Z_]*@' /usr/share/applications/artifactfs.desktop || fail "the launcher is not filled in"
gzip -t /usr/share/man/man1/artifactfs.1.gz /usr/share/man/man8/mount.artifactfs.8.gz

say "purged without a trace"
kill "$serving" && serving=
apt-get purge --yes -qq artifactfs >/root/said 2>&1 || { cat /root/said; fail "apt-get purge"; }
left=$(find / -xdev \( -path /proc -o -path /sys -o -path /root -o -path /home -o -path /tmp \) -prune -o -name '*artifactfs*' -print)
[ -z "$left" ] || fail "left behind: $left"
[ -z "$(dpkg --audit)$(dpkg-query -W -f '${Status}' artifactfs 2>/dev/null)" ] || fail "dpkg still knows it"
! grep -rl artifactfs /etc || fail "left in /etc"
say "artifactfs $version: installed, used, upgraded, purged on $(. /etc/os-release && echo "$PRETTY_NAME")"
