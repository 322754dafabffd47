"""2.6: extended attributes: off, so that `ls -l` costs nothing; with --xattrs a listing's age, and what a run is."""

import errno
import os
import signal
from typing import Any

import pytest

from artifactfs.emulator import sample
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, holding

# Prints the attributes of a place by name, or the errno that listing them fails with.
_ALL = """
import json, os, sys
try:
    print(json.dumps({n: os.getxattr(sys.argv[2], n).decode() for n in os.listxattr(sys.argv[2])}))
except OSError as error:
    print(json.dumps(error.errno))
"""
_ONE = """
import json, os, sys
try:
    print(json.dumps(len(os.getxattr(sys.argv[2], sys.argv[3]))))
except OSError as error:
    print(json.dumps(-error.errno))
"""


@pytest.fixture
def telling(mounting_patiently: Mounting) -> Mount:
    return mounting_patiently("--xattrs")


def attributes(mounted: Mount, *parts: object) -> Any:
    return mounted.python(_ALL, mounted.path(*parts))


def one(mounted: Mount, name: str, *parts: object) -> int:
    """Return the length of an attribute, or minus the errno."""
    return int(mounted.python(_ONE, mounted.path(*parts), name))


def test_off_by_default(lab: Lab, mounting: Mounting) -> None:
    """2.6: without --xattrs there are none, and the kernel does not ask: a stopped mount delays no caller."""
    mounted = mounting()
    run_id = lab.new_run()
    assert attributes(mounted, "runs", run_id) == errno.ENOTSUP
    assert one(mounted, "user.modellab.name", "runs", run_id) == -errno.ENOTSUP
    code = """
import json, os, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
print("ready", flush=True); sys.stdin.readline()
for ask in (lambda: os.listxattr(fd), lambda: os.getxattr(fd, "user.x")):
    try: ask()
    except OSError as error: print(error.errno)
"""
    with holding(mounted.python_command(code, mounted.path("runs", run_id))) as held:
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            assert held.go_on(limit_s=10.0).split() == [b"95", b"95"]
        finally:
            os.kill(mounted.pid, signal.SIGCONT)


def test_what_a_run_is(lab: Lab, telling: Mount) -> None:
    """2.6: with --xattrs a run tells name, status, project, tags and parameters, in UTF-8; a file the listing's age."""
    project = lab.new_project()
    run_id = lab.new_run(
        {"a.txt": 1},
        project=project,
        name="größe ✓",
        status="running",
        tags=[{"key": "team", "value": "ß"}, {"key": "odd"}],
        params=[{"key": "lr", "value": "0.1"}],
    )
    telling.sh('ls "$M/runs/$1"', run_id).ok()
    told = attributes(telling, "runs", run_id)
    assert 0 <= float(told.pop("user.artifactfs.age_s")) < 60
    assert told == {
        "user.artifactfs.origin": "own",
        "user.modellab.name": "größe ✓",
        "user.modellab.status": "running",
        "user.modellab.project": str(project),
        "user.modellab.tags": '{"team": "ß", "odd": ""}',
        "user.modellab.parameters": '{"lr": "0.1"}',
    }
    assert set(attributes(telling, "runs", run_id, "a.txt")) == {"user.artifactfs.age_s", "user.artifactfs.origin"}


def test_what_came_from_an_index(lab: Lab, telling: Mount) -> None:
    """2.6: with --xattrs the origin of a listing says where the project's own listing stands for it."""
    project = lab.new_project()
    run_id = lab.new_run({f"d{n}/e{m}/f.txt": 1 for n in range(6) for m in range(6)}, project=project)
    telling.tree(run_id)
    origins = {
        attributes(telling, "runs", run_id, f"d{n}", f"e{m}").get("user.artifactfs.origin")
        for n in range(6)
        for m in range(6)
    }
    assert origins == {"own", "index"}


def test_what_they_cost(lab: Lab, telling: Mount) -> None:
    """2.6: with --xattrs listing their names costs nothing, all values of a run one request, and none when known."""
    run_id = lab.new_run({"a.txt": 1})
    telling.sh('ls "$M/runs/$1"', run_id).ok()
    lab.reset()
    telling.python("import json, os, sys; print(json.dumps(os.listxattr(sys.argv[2])))", telling.path("runs", run_id))
    attributes(telling, "runs", run_id, "a.txt")
    one(telling, "user.modellab.status", "runs", run_id)
    telling.sh('ls -l "$M/runs/$1"', run_id).ok()
    assert lab.requests() == {}
    for _ in range(2):
        assert len(attributes(telling, "runs", run_id)) == 7
        assert lab.requests() == {"run": 1}


def test_what_is_none(lab: Lab, telling: Mount) -> None:
    """2.6: with --xattrs what there is not is ENODATA, what is larger than 64 KiB E2BIG, writing EROFS."""
    run_id = lab.new_run({"a.txt": 1}, params=[{"key": "k", "value": "x" * 70_000}])
    telling.sh('ls "$M/runs/$1"', run_id).ok()
    for name in ("user.modellab.nothing", "user.other", "security.selinux"):
        assert one(telling, name, "runs", run_id) == -errno.ENODATA
    assert one(telling, "user.modellab.name", "runs", run_id, "a.txt") == -errno.ENODATA
    assert one(telling, "user.modellab.parameters", "runs", run_id) == -errno.E2BIG
    assert attributes(telling) == {}
    assert attributes(telling, "runs", sample.RUN, "lora_model") == {}  # no caller has listed it
    code = "import json, os, sys\ntry: os.setxattr(sys.argv[2], 'user.x', b'y')\nexcept OSError as e: print(e.errno)"
    assert telling.python(code, telling.path("runs", run_id)) == errno.EROFS
