"""6.2: what another user of the machine gets to see of a mount and of its cache: nothing, unless asked for."""

import json
import os
import stat

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import User
from tests.harness import Done, Lab, Mount, Shell, mount_type, needs_root, run

pytestmark = needs_root

SIZE = 3 << 20
ANOTHER = ("setpriv", "--reuid=12347", "--regid=12347", "--clear-groups", "--")

# Every call that writes; each must fail with the same errno, and is reported by name.
_WRITING = """
import ctypes, errno, json, os, sys
top, file, new = sys.argv[1], sys.argv[2], os.path.join(os.path.dirname(sys.argv[2]), "new")
here = os.path.dirname(file)
libc = ctypes.CDLL(None, use_errno=True)
def access(path):
    if libc.access(os.fsencode(path), os.W_OK):
        raise OSError(ctypes.get_errno(), path)
calls = {
    "access": lambda: access(file),
    "access of a directory": lambda: access(here),
    "access of the top": lambda: access(top),
    "open to write": lambda: os.open(file, os.O_WRONLY),
    "open to read and write": lambda: os.open(file, os.O_RDWR),
    "open to append": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
    "open and cut": lambda: os.open(file, os.O_WRONLY | os.O_TRUNC),
    "create": lambda: os.open(new, os.O_WRONLY | os.O_CREAT),
    "create only": lambda: os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "create at the top": lambda: os.open(os.path.join(top, "new"), os.O_WRONLY | os.O_CREAT),
    "create a run": lambda: os.mkdir(os.path.join(top, "runs", "1234567")),
    "a file without a name": lambda: os.open(here, os.O_WRONLY | os.O_TMPFILE),
    "truncate": lambda: os.truncate(file, 0),
    "mkdir": lambda: os.mkdir(new),
    "mkfifo": lambda: os.mkfifo(new),
    "symlink": lambda: os.symlink("x", new),
    "link": lambda: os.link(file, new),
    "rename": lambda: os.rename(file, new),
    "unlink": lambda: os.unlink(file),
    "rmdir": lambda: os.rmdir(here),
    "chmod": lambda: os.chmod(file, 0o777),
    "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
    "utime": lambda: os.utime(file),
    "setxattr": lambda: os.setxattr(file, "user.x", b"x"),
    "removexattr": lambda: os.removexattr(file, "user.x"),
}
found = {}
for name, call in calls.items():
    try:
        call()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
print(json.dumps(found))
"""


def refused(done: Done) -> bool:
    return done.code != 0 and "Permission denied" in done.err and done.text == ""


def test_a_mount_of_root_is_closed(lab: Lab, open_shell: Shell, user: User) -> None:
    """6.2: without `allow_other` root's mount is closed for a user: its top, its paths, a file that is cached."""
    mounted = open_shell.mount()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    known = mounted.path("runs", sample.FIRST_OF_MANY, "config.json")
    assert mounted.sh('cat "$1"', known).ok().out
    # It is the mount that is closed, not the way to it.
    assert "mnt" in run(*user.prefix, "ls", open_shell.directory).ok().text.split()
    for command in (
        ("ls", mounted.point), ("ls", mounted.path("runs")), ("stat", "-c", "%s", mounted.path("runs", sample.RUN)),
        ("cat", known), ("env", "-C", mounted.point, "ls"), ("df", mounted.point),
    ):  # fmt: skip
        assert refused(run(*user.prefix, *command)), command


def test_a_cache_of_root_is_closed(lab: Lab, open_shell: Shell, user: User) -> None:
    """6.2: the cache's directory is 0700 and its files 0600, whatever the umask: no other user lists or reads it."""
    previous = os.umask(0)
    try:
        mounted = open_shell.mount()
    finally:
        os.umask(previous)
    run_id = lab.new_run({"model.bin": SIZE})
    mounted.sh('cat "$M/runs/$1/model.bin" | wc -c', run_id).ok()
    mounted.umount()
    cache = open_shell.path("cache/artifactfs")
    files = [os.path.join(top, name) for top, _, names in os.walk(cache) for name in names]
    assert sum(os.path.getsize(file) for file in files) >= SIZE
    assert stat.S_IMODE(os.stat(cache).st_mode) == 0o700
    assert {oct(stat.S_IMODE(os.stat(file).st_mode)) for file in files} == {"0o600"}
    assert "artifactfs" in run(*user.prefix, "ls", open_shell.path("cache")).ok().text.split()
    assert refused(run(*user.prefix, "ls", cache))
    for file in files:
        assert refused(run(*user.prefix, "cat", file)), file


def test_a_cache_of_another_user_is_refused(lab: Lab, open_shell: Shell, user: User) -> None:
    """6.2: a cache directory that belongs to another user is refused in one line, and nothing is mounted."""
    theirs = open_shell.make_directory("theirs")
    assert user.owner is not None
    os.chown(theirs, user.owner, user.owner)
    mounted = open_shell.expected_mount()
    done = open_shell.cli("mount", "--api-url", lab.url, "--cache-dir", theirs, mounted.point)
    assert done.code == ExitCode.CACHE_REFUSED
    assert done.err.count("\n") == 1
    assert theirs in done.err
    assert mount_type(mounted.point) is None
    assert os.listdir(theirs) == []


def as_user(user: User, mounted: Mount, code: str, *arguments: str) -> Done:
    """Run Python code as the user, who looks at a mount of root."""
    env = {**os.environ, **user.env, "LC_ALL": "C.UTF-8"}
    return run(*user.prefix, user.python, "-c", code, mounted.point, *arguments, env=env).ok()


def writes(user: User, mounted: Mount, file: str) -> dict[str, str]:
    """Let a user try all calls that write; returns those that are not EROFS, with what they are."""
    found = json.loads(as_user(user, mounted, _WRITING, file).out)
    assert len(found) > 20
    return {name: said for name, said in found.items() if said != "EROFS"}


def test_a_mount_that_was_opened(lab: Lab, open_shell: Shell, user: User) -> None:
    """6.2, 5.7: with `allow_other` another user sees and reads all, and every call that writes is EROFS."""
    mounted = open_shell.mount("--allow-other")
    run_id = lab.new_run({"sub/model.bin": SIZE, "a.txt": 10})
    place = mounted.path("runs", run_id)
    done = run(*user.prefix, "find", place, "-mindepth", "1", "-printf", "%P %y %s %m\n").ok()
    assert sorted(done.text.splitlines()) == ["a.txt f 10 644", "sub d 0 755", f"sub/model.bin f {SIZE} 644"]
    digest = run(*user.prefix, "sha256sum", os.path.join(place, "sub/model.bin")).ok().text.split()[0]
    assert digest == lab.sha256(run_id, "sub/model.bin")

    for who in (user.prefix, ()):
        reader = User(who, user.python, user.env, user.owner)
        assert writes(reader, mounted, os.path.join(place, "sub/model.bin")) == {}
    assert mounted.tree(run_id) == lab.truth(run_id)


@pytest.mark.parametrize("options", [(), ("--dir-mode", "777", "--file-mode", "666")], ids=["as it is", "open to all"])
def test_a_mounts_own_user_cannot_write(options: tuple[str, ...], lab: Lab, user_shell: Shell, user: User) -> None:
    """5.7: for the user whose mount it is every call that writes is EROFS, whatever bits are shown, of reports too."""
    mounted = user_shell.mount(*options)
    run_id = lab.new_run({"sub/model.bin": SIZE})
    for file in (mounted.path("runs", run_id, "sub", "model.bin"), mounted.path(".artifactfs", "status.json")):
        assert writes(user, mounted, file) == {}
    assert mounted.tree(run_id) == lab.truth(run_id)


def test_a_mount_that_root_makes_writable(lab: Lab, open_shell: Shell, user: User) -> None:
    """5.7: after `mount -o remount,rw` the kernel asks artifactfs itself, and nothing is written all the same."""
    mounted = open_shell.mount("--dir-mode", "777", "--file-mode", "666", "--allow-other")
    run_id = lab.new_run({"sub/model.bin": SIZE})
    mounted.sh('mount -i -o remount,rw "$M"').ok()
    # access(2) goes by the bits alone then, and FUSE has no call for O_TMPFILE; the rest is artifactfs' answer.
    answers = {"access": "done", "access of a directory": "done", "access of the top": "done"}
    answers |= {"a file without a name": "ENOTSUP"}
    root = User((), user.python, user.env, user.owner)
    assert writes(root, mounted, mounted.path("runs", run_id, "sub", "model.bin")) == answers
    assert mounted.tree(run_id) == lab.truth(run_id)


def test_files_without_a_size_are_open_to_all(lab: Lab, open_shell: Shell, user: User) -> None:
    """2.1, 2.2: while no answer tells a size the bits differ, and users with access can read: a member of the mount's
    group, and a stranger, too. The next look that is answered learns the size, and all is as with any file."""
    lab.switch(size_form="absent", index_size_form="absent")
    group = user.owner
    mounted = open_shell.mount("--allow-other", "--gid", str(group))
    code = "import os, sys; s = os.fstat(os.open(sys.argv[1], 0)); print(s.st_size, s.st_gid, oct(s.st_mode))"
    run_id = lab.new_run({"theirs.bin": 1000, "anothers.bin": 1000})
    for who, name in ((user.prefix, "theirs.bin"), (ANOTHER, "anothers.bin")):
        file = mounted.path("runs", run_id, name)
        lab.fault("content", {"status": 404})
        assert run(*who, "stat", "-c", "%s %a", file).ok().text == "0 604\n"
        lab.faults()
        assert run(*who, "stat", "-c", "%s %a", file).ok().text == "1000 644\n"
        assert run(*who, user.python, "-c", code, file).ok().text == f"1000 {group} 0o100644\n"
        assert run(*who, "sha256sum", file).ok().text.split()[0] == lab.sha256(run_id, name)


def test_permissions_count_where_a_mount_was_opened(lab: Lab, open_shell: Shell, user: User) -> None:
    """6.2, 2.1: `default_permissions` stays on with `allow_other`: a umask of 077 keeps others out."""
    mounted = open_shell.mount("--allow-other", "--umask", "077")
    assert refused(run(*user.prefix, "ls", mounted.point))
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)


def test_a_cache_of_a_user_is_closed_for_another(user_shell: Shell, lab: Lab) -> None:
    """6.2: an ordinary user's cache and log are closed for another ordinary user, as is his mount while he reads it."""
    mounted = user_shell.mount()
    run_id = lab.new_run({"model.bin": SIZE})
    mounted.sh('cat "$M/runs/$1/model.bin" | wc -c', run_id).ok()
    assert run(*ANOTHER, "ls", user_shell.path("cache")).ok().text.split() == ["artifactfs"]
    for closed in (mounted.path("runs", run_id, "model.bin"), user_shell.path("cache/artifactfs")):
        assert refused(run(*ANOTHER, "ls", closed)), closed
    mounted.umount()
    for top, _, names in os.walk(user_shell.path("cache/artifactfs")):
        for name in names:
            assert refused(run(*ANOTHER, "cat", os.path.join(top, name)))
