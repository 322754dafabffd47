"""Section 6 of the contract: which config files count (6.2). `root` runs what is typed; another user made the file."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import USER_ID, User
from tests.harness import ARTIFACTFS, Done, Lab, Shell, mount_type, needs_root, run

OTHER = 12347
HELPER = os.path.join(os.path.dirname(ARTIFACTFS), "mount.artifactfs")


@dataclass
class Named:
    """A config file, and one way in which it comes to be the one that is read."""

    arguments: tuple[str, ...] = ()
    env: dict[str, str | None] = field(default_factory=dict)


def ways(shell: Shell, home: str, path: str) -> dict[str, Named]:
    """Return every way to a config file; `home`: the home that it is the config file of."""
    link = shell.path("link.toml")
    os.symlink(path, link)
    return {
        "--config": Named(("--config", path)),
        "variable": Named(env={"ARTIFACTFS_CONFIG": path}),
        "-o config": Named(("-o", f"config={path}")),
        "HOME": Named(env={"HOME": home, "XDG_CONFIG_HOME": None}),
        "XDG_CONFIG_HOME": Named(env={"XDG_CONFIG_HOME": os.path.join(home, ".config")}),
        "a profile": Named(("--config", path, "--profile", "p")),
        "a link of one's own": Named(("--config", link)),
    }


WAYS = ("--config", "variable", "-o config", "HOME", "XDG_CONFIG_HOME", "a profile", "a link of one's own")


@pytest.fixture
def home(shell: Shell) -> str:
    """A home whose config file says something; all of it is another user's."""
    home = shell.make_directory("theirs")
    os.makedirs(os.path.join(home, ".config", "artifactfs"))
    Path(home, ".config", "artifactfs", "config.toml").touch(0o600)
    return home


def write(home: str, text: str, owner: int) -> str:
    path = os.path.join(home, ".config", "artifactfs", "config.toml")
    Path(path).write_text(f"{text}\n[profiles.p]\n", "utf-8")
    for top, _, names in os.walk(home):
        for each in (top, *(os.path.join(top, name) for name in names)):
            os.chown(each, owner, owner)
    return path


def refused(shell: Shell, done: Done, said: str) -> None:
    assert done.code == ExitCode.BAD_CONFIG, (done.code, done.err)
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("artifactfs: ")
    assert said in done.err
    assert mount_type(shell.expected_mount().point) is None


@needs_root
@pytest.mark.parametrize("way", WAYS)
def test_a_config_of_another_user(way: str, home: str, lab: Lab, shell: Shell) -> None:
    """6.2: root does not read another user's config file, however it comes in: no key goes where that says."""
    path = write(home, f'api_url = "{lab.url}"', OTHER)
    named = ways(shell, home, path)[way]
    done = shell.cli("mount", *named.arguments, shell.expected_mount().point, env=named.env)
    refused(shell, done, f"{named.arguments[1] if 'link' in way else path} belongs to another user (uid {OTHER})")
    assert ("sudo -H artifactfs" if way in ("HOME", "XDG_CONFIG_HOME") else f"install -m 600 {path}") in done.err or (
        "link" in way
    )
    assert lab.total() == 0
    # The same file counts as soon as it is root's.
    os.chown(path, 0, 0)
    assert lab.url in shell.cli("config", "show", *named.arguments, env=named.env).ok().text


# Whatever else such a file holds: tests/unit/test_settings_trusted_files.py.
EVERYTHING = """
api_url = "{url}"
proxy = "{url}"
access_token_file = "{secret}"
app_key_command = "touch {victim}"
log_to = "file"
log_file = "{victim}"
cache_dir = "{victim}.d"
ca_file = "{victim}"
allow_other = true
"""


@needs_root
@pytest.mark.parametrize("text", [EVERYTHING, "broken =", ""], ids=["everything", "broken", "empty"])
def test_whatever_is_in_it(text: str, home: str, lab: Lab, shell: Shell) -> None:
    """6.2: no setting of another user's config file counts; nothing is written, run, read or asked by it."""
    secret, victim = shell.path("secret"), shell.path("victim")
    Path(secret).write_text("root-s-own-secret", "ascii")
    path = write(home, text.format(url=lab.url, secret=secret, victim=victim), OTHER)
    for command in (("mount", shell.expected_mount().point), ("cache", "info")):
        done = shell.cli(command[0], *command[1:2], "--config", path, *command[2:])
        assert done.code == ExitCode.BAD_CONFIG, done.err
        assert f"belongs to another user (uid {OTHER})" in done.err
    assert lab.total() == 0
    assert not os.path.exists(victim)
    assert not os.path.exists(f"{victim}.d")


@needs_root
def test_fstabs_config_of_another_user(home: str, lab: Lab, shell: Shell) -> None:
    """6.2: the options of fstab are held to the same."""
    path = write(home, f'api_url = "{lab.url}"', OTHER)
    shell.program = (HELPER,)
    for spec in ("none", "p"):
        done = shell.cli(spec, shell.expected_mount().point, "-o", f"rw,config={path}")
        assert done.code == 32
        assert f"{path} belongs to another user (uid {OTHER})" in done.err
    assert lab.total() == 0


@needs_root
@pytest.mark.parametrize("link", ["file", "directory"])
def test_a_link_of_another_user(link: str, home: str, lab: Lab, shell: Shell) -> None:
    """6.2: nor is root led by another user's symbolic link to a file of root's own, made for something else."""
    own = Path(shell.make_directory("own"), "config.toml")
    own.write_text(f'api_url = "{lab.url}"\n', "utf-8")
    place = Path(home, ".config", "artifactfs")
    path = place / "config.toml"
    path.unlink()
    if link == "file":
        path.symlink_to(own)
    else:
        place.rmdir()
        place.symlink_to(own.parent)
    os.chown(path if link == "file" else place, OTHER, OTHER, follow_symlinks=False)
    env = {"HOME": home, "XDG_CONFIG_HOME": None}
    done = shell.cli("mount", shell.expected_mount().point, env=env)
    refused(shell, done, f"leads through a symbolic link of another user (uid {OTHER})")
    assert lab.total() == 0


@needs_root
def test_a_file_that_only_claims_to_be_roots(user: User, user_shell: Shell, lab: Lab) -> None:
    """6.2: a FUSE mount of another user that lets root in may claim that its files are root's: none of them counts."""
    mounted = user_shell.expected_mount()
    conf = Path(user_shell.path("fuse.conf"))
    conf.write_text("user_allow_other\n", "ascii")
    script = (
        'mount --bind "$1" /etc/fuse.conf; shift; point="$1"; file="$2"; shift 2\n'
        f'{" ".join(user.prefix)} "$@" "$point" || exit 99\n'
        f'stat -c "%u %a" "$file"; {ARTIFACTFS} config show --config "$file"; code=$?; umount "$point"; exit $code'
    )
    command = (*user_shell.program, "mount", "--api-url", lab.url, "--log-file", mounted.log_file)
    command += ("--allow-other", "--uid", "0", "--gid", "0")
    run_id = lab.new_run({"config.toml": 30})
    words = (
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        "sh",
        str(conf),
        mounted.point,
        mounted.path("runs", run_id, "config.toml"),
    )
    done = run(*words, *command, env=user_shell.env)
    assert done.code == ExitCode.BAD_CONFIG, done.err
    assert done.text == "0 644\n"
    assert f"lies in a mount of another user (uid {USER_ID})" in done.err


@needs_root
def test_the_log_of_another_users_home(home: str, lab: Lab, shell: Shell) -> None:
    """6.2: with another user's HOME, root's log is not written by way of that user's symbolic link."""
    victim = Path(shell.path("victim"))
    write(home, "", OTHER)
    state = Path(home, ".local", "state")
    state.mkdir(parents=True)
    (state / "artifactfs").symlink_to(victim)
    for each in (state.parent, state, state / "artifactfs"):
        os.chown(each, OTHER, OTHER, follow_symlinks=False)
    env = {"HOME": home, "XDG_CONFIG_HOME": None, "XDG_STATE_HOME": None, "ARTIFACTFS_CONFIG": "/dev/null"}
    point = shell.expected_mount().point
    done = shell.cli("mount", "--api-url", lab.url, point, env=env)
    assert done.code == ExitCode.NOT_WRITABLE
    assert f"can be changed by another user (uid {OTHER}); run `sudo -H artifactfs …`" in done.err
    assert not victim.exists()
    assert mount_type(point) is None
    # With a log elsewhere it mounts, and is not in that user's register either.
    mounted = shell.expected_mount()
    mounted.log.announce("cannot register the mount")
    victim.mkdir()
    shell.cli("mount", "--api-url", lab.url, "--log-file", mounted.log_file, "--cache-size", "0", point, env=env).ok()
    assert os.listdir(victim) == []
    assert shell.cli("umount", point, env=env).ok().err == ""


@pytest.mark.parametrize(("mode", "text"), [(0o620, 'api_url = "{url}"'), (0o602, "broken ="), (0o666, "")])
def test_a_config_that_others_can_write(mode: int, text: str, lab: Lab, shell: Shell) -> None:
    """6.2: a config file that another user can write to does not count, whatever is in it; the fix is named."""
    path = Path(shell.path("config.toml"))
    path.write_text(text.format(url=lab.url), "utf-8")
    path.chmod(mode)
    done = shell.cli("mount", "--config", str(path), shell.expected_mount().point)
    refused(shell, done, f"others can write to {path}, so it is not used; run `chmod go-w {path}`")
    assert lab.total() == 0
    doctor = shell.cli("doctor", "--offline", "--json", "--config", str(path))
    assert f'"fix": "chmod go-w {path}"' in doctor.text


@needs_root
@pytest.mark.parametrize("owner", ["user", "root"])
def test_a_config_of_ones_own_or_of_roots(owner: str, lab: Lab, user_shell: Shell) -> None:
    """6.2: an ordinary user's own config file counts, and one of root's that he can read."""
    path = Path(user_shell.path("config.toml"))
    path.write_text(f'api_url = "{lab.url}"\nruns_listed = 2\n', "utf-8")
    path.chmod(0o644)
    if owner == "user":
        os.chown(path, USER_ID, USER_ID)
    mounted = user_shell.expected_mount()
    user_shell.cli("mount", "--config", str(path), "--log-file", mounted.log_file, mounted.point).ok()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    # A third user's is refused to a user as it is to root.
    os.chown(path, OTHER, OTHER)
    done = user_shell.cli("config", "show", "--config", str(path))
    assert done.code == ExitCode.BAD_CONFIG
    assert f"belongs to another user (uid {OTHER})" in done.err


def test_a_config_through_a_pipe(lab: Lab, shell: Shell) -> None:
    """6.2: `--config <(...)` is a pipe of one's own, and counts."""
    mounted = shell.expected_mount()
    script = 'exec "$1" mount --config <(echo "api_url = \\"$2\\"") --log-file "$3" "$4"'
    run("bash", "-c", script, "bash", ARTIFACTFS, lab.url, mounted.log_file, mounted.point, env=shell.env).ok()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)


@needs_root
def test_in_a_user_namespace(user: User, user_shell: Shell) -> None:
    """6.2: where root's own `/` and `/dev/fd` seem to have no owner, a pipe and a file of one's own still count."""
    path = Path(user_shell.path("config.toml"))
    path.write_text('site = "datadoghq.eu"\n', "utf-8")
    os.chown(path, USER_ID, USER_ID)
    script = 'f="$1"; shift; "$@" --config "$f" && "$@" --config /dev/stdin <"$f" && cat "$f" | "$@" --config /dev/fd/0'
    namespace = (*user.prefix, "unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", str(path))
    done = run(*namespace, *user_shell.program, "config", "show", env=user_shell.env).ok()
    assert done.text.count("https://api.datadoghq.eu") == 3
