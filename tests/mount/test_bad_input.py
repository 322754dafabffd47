"""Bad input gets a clear answer: one line on stderr, an exit code of its own, and nothing left behind."""

import contextlib
import http.server
import os
import re
import threading
from collections.abc import Iterator, Mapping

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.harness import ARTIFACTFS, Lab, Shell, mount_type, needs_root, run, wait_until
from tests.processes import without_reader


def refused(
    shell: Shell, code: ExitCode, said: str, *arguments: str, env: Mapping[str, str | None] | None = None
) -> str:
    """Run the command, which must fail with this code, saying this in one line, and leave nothing. Returns the line."""
    done = shell.cli(*arguments, env=env)

    assert done.code == code, (done.code, done.err)
    assert said in done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("artifactfs: ")
    assert "Traceback" not in done.err
    assert done.out == b""
    wait_until(lambda: not shell.processes(), "the end of all processes")
    assert not any(mount_type(mount.point) for mount in shell.mounts)
    return done.err


@pytest.fixture
def point(shell: Shell) -> str:
    return shell.directory_for_mount()


@pytest.mark.parametrize(
    ("missing", "said"),
    [(["DD_API_KEY"], "DD_API_KEY"), (["DD_APP_KEY"], "DD_APP_KEY"), (["DD_API_KEY", "DD_APP_KEY"], "DD_API_KEY")],
)
def test_missing_keys(missing: list[str], said: str, shell: Shell, lab: Lab, point: str) -> None:
    """5.8: without keys the message names the variable to set."""
    env = dict.fromkeys(missing)
    refused(shell, ExitCode.KEYS_MISSING, said, "mount", "--api-url", lab.url, point, env=env)


@pytest.mark.parametrize(
    ("key", "form"),
    [("DD_API_KEY", "object"), ("DD_APP_KEY", "html"), ("DD_API_KEY", "nonsense"), ("DD_APP_KEY", "empty")],
)
def test_rejected_keys(key: str, form: str, shell: Shell, lab: Lab, point: str) -> None:
    """5.8: rejected keys fail the mount, whatever the server's error looks like; the key itself is not shown."""
    lab.switch(error_form=form)
    said = refused(
        shell, ExitCode.KEYS_REJECTED, "keys", "mount", "--api-url", lab.url, point, env={key: "wrong-key-1234"}
    )
    assert "wrong-key-1234" not in said
    assert "site" in said


def test_a_key_that_no_header_can_carry(shell: Shell, lab: Lab, point: str) -> None:
    """5.8: a key with a space or a line in it is refused before anything is sent."""
    refused(shell, ExitCode.KEYS_MISSING, "DD_API_KEY", "mount", "--api-url", lab.url, point, env={"DD_API_KEY": "a b"})
    assert lab.total() == 0


def test_a_missing_key_file(shell: Shell, lab: Lab, point: str) -> None:
    """5.8: a key file that is not there is named."""
    missing = shell.path("no-such-key")
    refused(shell, ExitCode.KEYS_MISSING, missing, "mount", "--api-key-file", missing, "--api-url", lab.url, point)


def test_a_missing_mountpoint(shell: Shell, lab: Lab) -> None:
    """5.8: a mount point that does not exist."""
    missing = shell.path("missing")
    said = refused(shell, ExitCode.MOUNTPOINT_MISSING, missing, "mount", "--api-url", lab.url, missing)
    assert "mkdir" in said
    assert not os.path.exists(missing)


def test_a_mistyped_command(shell: Shell) -> None:
    """The command that is meant is named."""
    for typed, meant in {"downloat": "download", "unmuont": "unmount"}.items():
        refused(shell, ExitCode.USAGE, f"No such command '{typed}'; did you mean {meant}?", typed)


@pytest.mark.parametrize("place", ["", "/", "/..", "//", "/proc", "/usr/bin", "/boot", "/bin", "link", "link/below"])
def test_a_place_that_is_none(place: str, shell: Shell, lab: Lab) -> None:
    """5.8: over the root, in the system's directories, and at no place at all, nothing is mounted."""
    # Bad keys: should the check ever be lost, the mount fails all the same, and the machine survives the test.
    env = {"DD_API_KEY": "wrong"}
    if place.startswith("link"):
        os.symlink("/usr/lib", shell.path("link"))
        place = shell.path(place)
    refused(shell, ExitCode.MOUNT_REFUSED, "no place for a mount", "mount", "--api-url", lab.url, place, env=env)


def test_a_demo_in_a_directory_of_the_system(shell: Shell) -> None:
    """5.8: its mount point, which it would make, is refused before it is made."""
    refused(shell, ExitCode.MOUNT_REFUSED, "/usr is the system's", "demo", "/usr/share/a-demo")
    assert not os.path.exists("/usr/share/a-demo")


@pytest.mark.parametrize("way", ["removed", "ended"])
def test_a_directory_that_is_gone(way: str, shell: Shell, lab: Lab) -> None:
    """5.8: where a relative path means nothing, as in a mount that has ended, every command says so, and the same."""
    here = shell.mount().path("runs") if way == "ended" else shell.make_directory("here")
    gone = '"$program" umount "$point"' if way == "ended" else 'rmdir "$PWD"'
    commands = [
        "umount .",
        "mount .",
        "demo x",
        "warm x",
        "pin x",
        "cache info --cache-dir x",
        "config path --config x",
        "service install -n x",
        "desktop open x",
    ]
    script = f'program=$1 point=$2; cd "$3" && {gone} && shift 3 && for words; do $program $words; echo $?; done'
    done = run("sh", "-c", script, "sh", ARTIFACTFS, shell.path("mnt"), here, *commands, env=shell.env)
    assert done.text.splitlines() == [str(int(ExitCode.MOUNTPOINT_MISSING))] * len(commands), done.err
    said = "artifactfs: the directory that you are in no longer exists; give an absolute path\n"
    assert done.err == said * len(commands)


def test_a_download_from_a_directory_that_is_gone(shell: Shell, lab: Lab) -> None:
    """5.8: a run's number and an absolute directory need no working directory."""
    here, to = shell.make_directory("here"), shell.path("to")
    script = 'cd "$2" && rmdir "$2" && exec "$1" download --api-url "$3" 70158/lora_model/run_config.json "$4"'
    run("sh", "-c", script, "sh", ARTIFACTFS, here, lab.url, to, env=shell.env).ok()
    assert os.listdir(to) == ["run_config.json"]


@pytest.mark.parametrize("words", ["status --json", "config show", "config show --json", "--help", "doctor --offline"])
def test_closed_output(words: str, shell: Shell) -> None:
    """5.8: a full standard output is reported in one line; of one that is closed nothing is said, as `head` expects."""
    full = run("sh", "-c", f'exec "$1" {words} >/dev/full', "sh", ARTIFACTFS, env=shell.env)
    assert full.code == ExitCode.NOT_WRITABLE
    assert full.err == "artifactfs: cannot write to standard output: No space left on device\n"
    closed = run(*without_reader(ARTIFACTFS, *words.split()), env=shell.env)
    assert (closed.text, closed.err) == ("141\n", "")


def test_a_mountpoint_that_is_a_file(shell: Shell, lab: Lab) -> None:
    """5.8: a mount point that is no directory."""
    file = shell.path("file")
    with open(file, "w", encoding="ascii") as opened:
        opened.write("text")
    refused(shell, ExitCode.NOT_A_DIRECTORY, file, "mount", "--api-url", lab.url, file)


def test_a_mountpoint_that_is_not_empty(shell: Shell, lab: Lab, point: str) -> None:
    """1.1: a directory that holds something is allowed with a warning, and what is in it comes back."""
    with open(os.path.join(point, "mine"), "w", encoding="ascii") as opened:
        opened.write("text")
    mounted = shell.expected_mount()
    done = shell.cli("mount", "--api-url", lab.url, "--log-file", mounted.log_file, point).ok()
    assert "not empty" in done.err
    assert done.err.count("\n") == 1
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    mounted.umount()
    assert os.listdir(point) == ["mine"]


def test_a_mountpoint_that_is_taken(shell: Shell, lab: Lab) -> None:
    """5.8: a place where artifactfs is mounted already; the mount that is there lives on."""
    mounted = shell.mount()
    done = shell.cli("mount", "--api-url", lab.url, mounted.point)
    assert done.code == ExitCode.ALREADY_MOUNTED
    assert "already mounted" in done.err
    assert done.err.count("\n") == 1
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert mounted.pid


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-such-option"], "no-such-option"),
        (["-o", "nonsense=1"], "nonsense"),
        (["-o", "rw"], "read-only"),
        (["--listing-ttl", "soon"], "soon"),
        (["--cache-size", "10 elephants"], "elephants"),
        (["--deadline", "0"], "--deadline"),
        (["--runs-listed", "-5"], "-5"),
        (["--umask", "999"], "999"),
        (["--uid", "nobody-of-this-name"], "nobody-of-this-name"),
        (["--site", "not a site"], "not a site"),
        (["--site", "eu"], "there are datadoghq.com, us3.datadoghq.com, us5.datadoghq.com, datadoghq.eu, "),
        (["--site", "datadoghq.co"], "did you mean datadoghq.com?"),
        (["--wait-max", "5m"], "add --wait"),
        (["--api-url", "ftp://127.0.0.1"], "ftp"),
        (["--api-url", "http://192.0.2.1"], "https"),
        (["--api-url", "http://user:secret@127.0.0.1"], "--api-url"),
        (["--api-url", "http://127.0.0.1:99999"], "99999"),
        (["--proxy", "nonsense"], "--proxy"),
        (["extra", "arguments"], "argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(arguments: list[str], said: str, shell: Shell, lab: Lab, point: str) -> None:
    """5.8: an unknown option, or a value that makes no sense, is named."""
    line = refused(shell, ExitCode.USAGE, said, "mount", *arguments, point)
    assert "secret" not in line
    assert lab.total() == 0


def test_a_bad_environment_variable(shell: Shell, lab: Lab, point: str) -> None:
    """5.8: a variable with a bad value is named, not the option that no user typed."""
    env = {"ARTIFACTFS_LISTING_TTL": "soon"}
    refused(shell, ExitCode.USAGE, "ARTIFACTFS_LISTING_TTL", "mount", "--api-url", lab.url, point, env=env)


@pytest.mark.parametrize(
    "command",
    [
        ["mount"],
        ["umount"],
        ["nonsense"],
        ["umount", "--all", "x"],
        ["mount", "--config"],
        ["status", "--interval", "5"],
        ["doctor", "--offline", "--run", "7"],
    ],
)
def test_incomplete_commands(command: list[str], shell: Shell) -> None:
    """5.8: a command without what it needs, that there is none of, or with options that do nothing, names its help."""
    refused(shell, ExitCode.USAGE, "--help", *command)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listing_ttl = ", "TOML"),
        ("[table]\nx = 1", "table"),
        ("no_such_setting = 1", "no_such_setting"),
        ("listing_ttl = 'soon'", "soon"),
        ("listing_ttl = [1, 2]", "listing_ttl"),
        ("\xff\xfe", "TOML"),
    ],
)
def test_a_malformed_config(text: str, said: str, shell: Shell, lab: Lab, point: str) -> None:
    """5.8: a config file that does not parse, or says what there is not, is named with what is wrong in it."""
    config = shell.path("config.toml")
    with open(config, "w", encoding="latin-1") as file:
        file.write(text)
    line = refused(shell, ExitCode.BAD_CONFIG, said, "mount", "--config", config, "--api-url", lab.url, point)
    assert config in line


def test_a_missing_config(shell: Shell, lab: Lab, point: str) -> None:
    """5.8: a config file that was asked for and is not there."""
    missing = shell.path("none.toml")
    refused(shell, ExitCode.BAD_CONFIG, missing, "mount", "--config", missing, "--api-url", lab.url, point)


def test_an_unwritable_log(shell: Shell, lab: Lab, point: str) -> None:
    """5.8: a log that cannot be written is named, and how to choose another."""
    refused(
        shell, ExitCode.NOT_WRITABLE, "--log-file", "mount", "--log-file", "/proc/none/log", "--api-url", lab.url, point
    )


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        ("--config", ExitCode.BAD_CONFIG, "a pipe without a writer"),
        ("--api-key-file", ExitCode.KEYS_MISSING, "a pipe without a writer"),
        ("--ca-file", ExitCode.BAD_CONFIG, "it is not a regular file"),
        ("--log-file", ExitCode.NOT_WRITABLE, "the pipe has no reader"),
    ],
)
def test_a_pipe_without_another_end(option: str, code: ExitCode, said: str, shell: Shell, lab: Lab, point: str) -> None:
    """5.8: a pipe in the place of a file is said to be one, and not waited for."""
    pipe = shell.path("pipe")
    os.mkfifo(pipe)
    line = refused(shell, code, said, "mount", option, pipe, "--api-url", lab.url, point)
    assert pipe in line


@contextlib.contextmanager
def web_server(body: bytes, content_type: str) -> Iterator[str]:
    """Run a plain web server on loopback that answers anything with `body`. Yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html><body>It works!</body></html>", "text/html"),
        (b"", "text/plain"),
        (b"[]", "application/json"),
        (b'{"data": 7}', "application/json"),
        (b'{"status": "ok"}', "application/json"),
        (b"\x00\xff\x00", "application/octet-stream"),
    ],
)
def test_a_server_that_is_no_model_lab(body: bytes, content_type: str, shell: Shell, point: str) -> None:
    """5.8: a server that answers, but not like a Model Lab."""
    with web_server(body, content_type) as url:
        refused(shell, ExitCode.NOT_MODEL_LAB, "Model Lab", "mount", "--api-url", url, point)


def test_no_server_listens(shell: Shell, own_lab: Lab, point: str) -> None:
    """5.8: a port where no server listens."""
    own_lab.stop()
    words = ("mount", "--deadline", "3s", "--api-url", own_lab.url, point)
    line = refused(shell, ExitCode.UNREACHABLE, "refuse", *words)
    assert str(own_lab.port) in line
    assert line.endswith("; `artifactfs doctor` says more\n")
    # What other programs would have used, if the network is only reached through it.
    env = {"NO_PROXY": "x", "https_proxy": "socks5://h:1", "HTTP_PROXY": "http://me:s3cr3t@h:1"}
    line = refused(shell, ExitCode.UNREACHABLE, "refuse", *words, env=env)
    assert 'HTTP_PROXY is set, and not read: add --proxy "$HTTP_PROXY"; or check ' in line
    assert "s3cr3t" not in line
    assert "is set" not in refused(shell, ExitCode.UNREACHABLE, "", *words, "--proxy", "http://127.0.0.1:9", env=env)


def test_a_cache_that_cannot_be_written(shell: Shell, lab: Lab, point: str) -> None:
    """4.3: the mount works, and says at once that nothing is cached, with the way to another place."""
    mounted = shell.expected_mount()
    options = ("--cache-dir", "/proc/none", "--log-file", mounted.log_file)
    mounted.log.announce("no cache in /proc/none")
    done = shell.cli("mount", "--api-url", lab.url, *options, point).ok()
    assert re.fullmatch(r"artifactfs: warning: .*/proc/none.*nothing is cached; run `.*--cache-dir .*`\n", done.err)
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)


@needs_root
@pytest.mark.parametrize("host", ["192.0.2.1", "model-lab.invalid"])
def test_an_unreachable_host(host: str, shell: Shell, point: str) -> None:
    """5.8: a host without a route, and a name that does not resolve (in a network namespace where nothing does)."""
    shell.prefix = ("unshare", "-n", "--")
    refused(shell, ExitCode.UNREACHABLE, host, "mount", "--deadline", "3s", "--api-url", f"https://{host}", point)


@needs_root
def test_no_fuse_device(shell: Shell, lab: Lab, point: str) -> None:
    """5.8: without /dev/fuse the message says how to get it."""
    make = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
    shell.prefix = ("unshare", "-m", "--", "sh", "-c", f'{make} && exec "$@"', "sh")
    line = refused(shell, ExitCode.NO_FUSE_DEVICE, "/dev/fuse is missing", "mount", "--api-url", lab.url, point)
    assert "modprobe fuse" in line


def test_umount_of_what_is_not_mounted(shell: Shell, point: str) -> None:
    """5.6: there is nothing to unmount."""
    refused(shell, ExitCode.NOT_MOUNTED, point, "umount", point)


def test_umount_of_another_users_mount(shell: Shell) -> None:
    """5.6: a mount that is not ours is left alone."""
    refused(shell, ExitCode.NOT_MOUNTED, "/proc", "umount", "/proc")
    assert mount_type("/proc") == "proc"


def test_a_log_below_the_mount_point(shell: Shell, lab: Lab, point: str) -> None:
    """5.1, 5.8: a mount would hide its own log from itself, and wait for it: it is refused, whatever names it."""
    for more, env in (
        (("--log-file", f"{point}/own.log"), {}),
        (("--log-file", f"{point}/not/there/own.log"), {}),
        ((), {"XDG_STATE_HOME": f"{point}/state"}),
    ):
        refused(
            shell, ExitCode.MOUNT_REFUSED, "below the mount point", "mount", "--api-url", lab.url, *more, point, env=env
        )


def test_a_cache_at_or_below_the_mount_point(shell: Shell, lab: Lab, point: str) -> None:
    """6.2: a mount would hide its own cache from all commands: it is refused, and nothing is left in the directory."""
    for place in (point, f"{point}/cache"):
        more = ("--api-url", lab.url, "--cache-dir", place)
        refused(shell, ExitCode.CACHE_REFUSED, "below the mount point", "mount", *more, point)
    assert os.listdir(point) == []
