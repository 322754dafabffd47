"""8.3 to 8.5: what a mount without its service shows of what was stored, and how it goes on with the service."""

import contextlib
import errno
import json
import sys
from collections.abc import Mapping

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.contract.reading import read
from tests.contract.test_semantics_5_services import Systemd
from tests.harness import CHECKOUT, FUSE_TYPE, Lab, Mount, Shell, holding, mount_type, run, wait_until
from tests.status import report, status

NO_KEYS = {"DD_API_KEY": None, "DD_APP_KEY": None}
MIB = 1 << 20
FILES = {"a.txt": 10, "never.bin": 3 * MIB, "big.bin": 5 * MIB, "sub/b.bin": 20, "sub/deep/c.bin": 30}
READ = ("a.txt", "big.bin", "sub/deep/c.bin")
AWAY = "works offline"


def mount(shell: Shell, url: str, *options: str, env: Mapping[str, str | None] | None = None) -> Mount:
    """Mount what is, or was, at `url`."""
    mounted = shell.expected_mount()
    mounted.log.announce(AWAY, optional=True)
    shell.cli("mount", "--api-url", url, "--log-file", mounted.log_file, *options, mounted.point, env=env).ok()
    assert mount_type(mounted.point) == FUSE_TYPE
    return mounted


@pytest.fixture
def impatient(shell: Shell) -> Shell:
    """A shell whose mounts do not wait for long before they ask for the service again."""
    shell.program = (sys.executable, "-m", "tests.launch", "quick-probes")
    shell.more_env["PYTHONPATH"] = CHECKOUT
    return shell


def seen(mounted: Mount, *run_ids: int) -> list[object]:
    """Return all that programs see of runs and of the directories above them: names, kinds, sizes, times, inodes."""
    above = mounted.sh('cd "$M" && ls -Ail --time-style=full-iso runs names projects').ok().text
    return [above, *(mounted.walk("runs", run_id) for run_id in run_ids)]


def look_at(mounted: Mount, lab: Lab, run_id: int) -> list[object]:
    """List two runs, read some files of one, and return what is seen."""
    for name in READ:
        assert read(mounted, "whole", "runs", run_id, name) == lab.sha256(run_id, name)
    mounted.wait_for_index(run_id, sample.RUN)
    return seen(mounted, run_id, sample.RUN)


def failure(mounted: Mount, *parts: object) -> object:
    """Return the errno that reading a whole file fails with."""
    return read(mounted, "whole", *parts)


@pytest.mark.parametrize("state", ["completed", "running"])
def test_the_same_tree_without_the_service(state: str, own_lab: Lab, shell: Shell) -> None:
    """8.3: names, kinds, sizes, times, inodes and the contents that were read; anything else is ENETDOWN."""
    shell.lab, url = own_lab, own_lab.url
    run_id = own_lab.new_run(FILES, status=state)
    digests = {name: own_lab.sha256(run_id, name) for name in READ}
    other = own_lab.new_run()
    mounted = mount(shell, url)
    before = look_at(mounted, own_lab, run_id)
    mounted.umount()
    own_lab.stop()

    mounted = mount(shell, url, "--offline", env=NO_KEYS)
    for _ in range(2):
        assert seen(mounted, run_id, sample.RUN) == before
        assert {name: read(mounted, "whole", "runs", run_id, name) for name in READ} == digests
    assert failure(mounted, "runs", run_id, "never.bin") == errno.ENETDOWN
    assert "Network is down" in mounted.sh('ls "$M/runs/$1"', other).err
    assert mounted.error_of("runs", run_id, "sub", "none") == errno.ENOENT
    health = status(mounted)["health"]
    assert health["state"] == "offline"
    assert "--offline" in health["message"]
    assert status(mounted)["requests"]["by_kind"] == {}
    told = report(mounted, "errors")
    assert f"/runs/{run_id}/never.bin: the mount works offline" in told
    assert f"/runs/{other}: the mount works offline" in told


def test_sizes_that_no_listing_gives(own_lab: Lab, shell: Shell) -> None:
    """8.3, 2.2: a size that contents showed is kept; of what no program looked at, `ls -l` shows none."""
    shell.lab, url = own_lab, own_lab.url
    own_lab.switch(size_form="absent", index_size_form="absent")
    run_id = own_lab.new_run({"d/known.bin": 5000, "d/unknown.bin": 6000})
    digest = own_lab.sha256(run_id, "d/known.bin")
    mounted = mount(shell, url)
    assert read(mounted, "whole", "runs", run_id, "d/known.bin") == digest
    # Listed, and not looked at.
    names = "import json, os, sys; print(json.dumps(sorted(os.listdir(sys.argv[2]))))"
    assert mounted.python(names, mounted.path("runs", run_id, "d")) == ["known.bin", "unknown.bin"]
    mounted.umount()
    own_lab.stop()
    mounted = mount(shell, url, "--offline", env=NO_KEYS)
    done = mounted.sh('cd "$M/runs/$1/d" && stat -c "%n %s" *', run_id).ok()
    assert (done.text, done.err) == ("known.bin 5000\nunknown.bin 0\n", "")
    assert read(mounted, "whole", "runs", run_id, "d/known.bin") == digest
    assert failure(mounted, "runs", run_id, "d/unknown.bin") == errno.ENETDOWN


def test_another_accounts_store(own_lab: Lab, shell: Shell) -> None:
    """8.3, 6.3: keys of another account, or another account's name, show nothing of what this one has stored."""
    shell.lab, url = own_lab, own_lab.url
    run_id = own_lab.new_run(FILES)
    mounted = mount(shell, url)
    before = look_at(mounted, own_lab, run_id)
    mounted.umount()
    own_lab.stop()
    for options, env in (((), {"DD_APP_KEY": "another"}), (("--account", "another"), NO_KEYS)):
        mounted = mount(shell, url, "--offline", *options, env=env)
        assert mounted.error_of("runs", run_id) == errno.ENETDOWN
        assert "Network is down" in mounted.sh('ls "$M/names"').err
        mounted.log.announce("it was mounted last with .* account: see --account")
        mounted.umount()
    # By the same keys, or without any: nobody has accepted the others, so the account before is still the last one.
    for env in (NO_KEYS, {}):
        mounted = mount(shell, url, "--offline", env=env)
        assert seen(mounted, run_id, sample.RUN) == before
        mounted.umount()


def test_a_pin_while_offline(own_lab: Lab, shell: Shell) -> None:
    """8.6: what is here can be pinned offline; where anything is missing, nothing is read, and nothing pinned."""
    shell.lab, url = own_lab, own_lab.url
    run_id = own_lab.new_run(FILES)
    mounted = mount(shell, url)
    look_at(mounted, own_lab, run_id)
    mounted.umount()
    own_lab.stop()
    mounted = mount(shell, url, "--offline")
    done = shell.cli("pin", mounted.path("runs", run_id))
    assert (done.code, done.err.count("\n")) == (ExitCode.INCOMPLETE, 1)
    assert "the mount works offline, and " in done.err
    assert json.loads(shell.cli("pins", "--json").ok().out) == []
    assert mounted.sh('cat "$M/.artifactfs/errors"').ok().text.startswith("no failures")
    shell.cli("pin", mounted.path("runs", run_id, READ[0])).ok()
    assert len(json.loads(shell.cli("pins", "--json").ok().out)) == 1


def test_a_refresh_while_offline(own_lab: Lab, shell: Shell) -> None:
    """3.6, 8.3: `refresh --contents` is refused, as what it drops could not be fetched again; `refresh` waits."""
    shell.lab, url = own_lab, own_lab.url
    run_id = own_lab.new_run(FILES)
    mounted = mount(shell, url)
    look_at(mounted, own_lab, run_id)
    expected = [own_lab.sha256(run_id, name) for name in READ]
    mounted.umount()
    own_lab.stop()
    mounted = mount(shell, url, "--offline")
    place = mounted.path("runs", run_id)
    for command in (("refresh", "--contents", place), ("cache", "clear", place)):
        done = shell.cli(*command)
        assert (done.code, done.err.count("\n")) == (ExitCode.INCOMPLETE, 1)
        assert "works offline, so what is dropped could not be fetched again: nothing is dropped" in done.err
    assert f"{mounted.point} works offline: until it asks the service again" in shell.cli("refresh", place).ok().err
    assert [read(mounted, "whole", "runs", run_id, name) for name in READ] == expected


# Reads what is kept of a file, sees that its end is not, and reads the whole file when asked to.
_HOLDS = """
import errno, hashlib, os, sys
held = os.open(sys.argv[2], os.O_RDONLY)
assert len(os.pread(held, 100, 0)) == 100
try:
    os.pread(held, 100, 6 << 20)
except OSError as error:
    assert error.errno == errno.ENETDOWN, error
else:
    raise AssertionError("nobody had read that")
print("ready", flush=True)
sys.stdin.readline()
hashed = hashlib.sha256()
while piece := os.read(held, 1 << 20):
    hashed.update(piece)
print(hashed.hexdigest())
"""


@pytest.mark.parametrize("then", [{"reset_after": 0}, {"status": 503}, {"html": True}], ids=["away", "fails", "portal"])
def test_without_a_service_and_back(then: dict[str, object], own_lab: Lab, impatient: Shell) -> None:
    """8.4, 8.5: auto mounts what is stored, and goes on with the service: new files show, open files are read on."""
    impatient.lab = own_lab
    run_id = own_lab.new_run(FILES | {"partly.bin": 8 * MIB}, status="running")
    deleted = own_lab.new_run()
    mounted = mount(impatient, own_lab.url)
    before = look_at(mounted, own_lab, run_id)
    mounted.sh('ls "$M/runs/$1"; head -c 100 "$M/runs/$2/partly.bin"', deleted, run_id).ok()
    mounted.umount()

    own_lab.fault("any", then)
    mounted = mount(impatient, own_lab.url, "-o", "offline=auto", "--wait")
    assert seen(mounted, run_id, sample.RUN) == before
    assert failure(mounted, "runs", run_id, "never.bin") == errno.ENETDOWN
    assert status(mounted)["health"]["state"] == "offline"
    with holding(mounted.python_command(_HOLDS, mounted.path("runs", run_id, "partly.bin"))) as holder:
        own_lab.files(run_id, add={"new": 1})
        own_lab.change_run(deleted, delete=True)
        own_lab.faults()
        wait_until(lambda: mounted.error_of("runs", run_id, "new") == 0, "the new file")
        assert holder.go_on().decode().strip() == own_lab.sha256(run_id, "partly.bin")
    wait_until(lambda: status(mounted)["health"]["state"] == "ok", "the mount's health")
    wait_until(lambda: mounted.error_of("runs", deleted) == errno.ENOENT, "the end of a run")
    assert mounted.tree(run_id) == own_lab.truth(run_id)
    assert read(mounted, "whole", "runs", run_id, "never.bin") == own_lab.sha256(run_id, "never.bin")


def test_keys_that_are_refused_by_then(own_lab: Lab, impatient: Shell) -> None:
    """8.5: the mount stays offline and says so, and goes on as soon as they are accepted."""
    impatient.lab = own_lab
    run_id = own_lab.new_run(FILES)
    mounted = mount(impatient, own_lab.url)
    before = look_at(mounted, own_lab, run_id)
    mounted.umount()
    own_lab.fault("any", {"reset_after": 0})
    mounted = mount(impatient, own_lab.url, "-o", "offline=auto")
    key = own_lab.app_key
    own_lab.rotate(app_key="another")
    own_lab.faults()
    wait_until(lambda: "keys" in status(mounted)["health"]["what_to_do"], "what is said of the keys")
    assert status(mounted)["health"]["state"] == "offline"
    assert seen(mounted, run_id, sample.RUN) == before
    own_lab.rotate(app_key=key)
    wait_until(lambda: status(mounted)["health"]["state"] == "ok", "the mount's health")
    assert read(mounted, "whole", "runs", run_id, "never.bin") == own_lab.sha256(run_id, "never.bin")


def test_an_entry_of_fstab(own_lab: Lab, shell: Shell) -> None:
    """8.4: mount(8)'s helper does not wait for the service where something is stored, `nofail` or not."""
    shell.lab, url = own_lab, own_lab.url
    run_id = own_lab.new_run(FILES)
    mounted = mount(shell, url)
    before = look_at(mounted, own_lab, run_id)
    mounted.umount()
    own_lab.stop()
    options = f"rw,nofail,offline=auto,log_file={mounted.log_file}"
    helper = (sys.executable, "-m", "artifactfs.cli.mount_helper", url, mounted.point, "-o", options)
    done = run(*helper, env=shell.env).ok()
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("mount.artifactfs: warning: 127.0.0.1:")
    assert "mounted offline" in done.err
    assert seen(mounted, run_id, sample.RUN) == before


def test_systemd_is_told(own_lab: Lab, impatient: Shell) -> None:
    """8.4, 8.5: the state of the unit says that the mount is offline and why, and later that it is not."""
    impatient.lab = own_lab
    mounted = mount(impatient, own_lab.url)
    mounted.sh('ls "$M/runs"').ok()
    mounted.umount()
    own_lab.fault("any", {"status": 503})
    systemd = Systemd(impatient.path("notify"))
    impatient.more_env["NOTIFY_SOCKET"] = systemd.address
    command = ("mount", "-f", "-o", "offline=auto", "--api-url", own_lab.url, "--log-file", mounted.log_file)
    with contextlib.closing(systemd.socket), impatient.background(*command, mounted.point):
        assert "READY" not in systemd.next()
        ready = systemd.next()
        assert ready["READY"] == "1"
        assert f" at {mounted.point}, offline: " in ready["STATUS"]
        assert "answered 503" in ready["STATUS"]
        own_lab.faults()
        assert systemd.next()["STATUS"].endswith(f" at {mounted.point}")
        mounted.umount()
