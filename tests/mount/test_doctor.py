"""`artifactfs doctor` as it is typed: a service that is right, wrong, slow or gone, and a machine that lacks much."""

import json
import os
import signal

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.doctoring import Told, ask
from tests.harness import Lab, Shell, run, start_process, wait_until
from tests.ports import held_port
from tests.processes import without_reader
from tests.tlsproxy import certificate, tls_proxy

# Requests where all goes well: the runs, a run's root, a directory of it, a part of a file, the project's listing.
ALL = {"runs": 1, "listing": 2, "content": 1, "index": 1}


# --- a service that is as it should be ------------------------------------------------------------------


def test_all_is_well(shell: Shell, lab: Lab) -> None:
    """Five requests tell all; a mark for each check, and the exit code says that a mount works."""
    told = ask(shell, shell.directory_for_mount(), code=0)
    assert told.requests == ALL
    told.says("service", "good", "is a Model Lab", f"127.0.0.1:{lab.port}")
    told.says("keys", "good", "DD_API_KEY", "DD_APP_KEY")
    told.says("rate limit", "good", "of 6,000")
    told.says("contents", "good", "206")
    told.says("index", "good", "agrees")
    told.says("directories", "good", "with a slash", "the run's root")
    told.says("mount point", "good")
    assert "fault" not in {row["mark"] for row in told.checks.values()}


def test_a_mount_of_it_works(shell: Shell) -> None:
    """What the doctor calls healthy can be mounted, and is then reported."""
    ask(shell, shell.directory_for_mount(), code=0)
    mounted = shell.mount()
    told = ask(shell, mounted.point, code=0)
    told.says(
        "mount point", "skipped", f"artifactfs is mounted at {mounted.point}", f"artifactfs status {mounted.point}"
    )
    # Beside those of other tests, dead ones too.
    assert any(mounted.point in row["fact"] for row in told.rows if (row["check"], row["mark"]) == ("mounts", "good"))
    assert mounted.sh('ls "$M"').ok()


def test_a_dead_mount(shell: Shell) -> None:
    """A mount whose process was killed is reported with the command that takes it away, which does."""
    mounted = shell.mount()
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: not shell.processes(), "the process's end")
    told = ask(shell, mounted.point, code=0)
    told.says("mount point", "warning", "dead mount", "artifactfs umount")
    mounted.umount()
    ask(shell, mounted.point, code=0).says("mount point", "good")


def test_a_wedged_mount(shell: Shell) -> None:
    """Beside a mount whose process is stopped, and on it, the doctor ends; it neither hangs nor kills."""
    mounted = shell.mount()
    pid = mounted.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        told = ask(shell, mounted.point, "--cache-dir", mounted.path("cache"), code=ExitCode.UNHEALTHY)
        assert told.checks["mount point"]["mark"] == "fault"
        told.says("cache", "fault", "does not answer")
    finally:
        os.kill(pid, signal.SIGCONT)
    mounted.sh('ls "$M"').ok()


def test_without_the_index_and_offline(shell: Shell) -> None:
    told = ask(shell, "--no-index", code=0)
    assert told.requests == {name: count for name, count in ALL.items() if name != "index"}
    told.says("index", "skipped", "--no-index")
    told = ask(shell, "--offline", code=0)
    assert told.requests == {}
    told.says("service", "skipped", "--offline")
    assert told.checks["fuse device"]["mark"] == "good"


def test_one_run(shell: Shell, lab: Lab) -> None:
    """--run says which; one that is not there is reported."""
    told = ask(shell, "--run", str(sample.RUN), code=0)
    told.says("listing", "good", f"run {sample.RUN} ")
    told = ask(shell, "--run", "999999999", code=0)
    told.says("listing", "warning", "no run 999999999")
    empty = lab.new_run({})
    ask(shell, "--run", str(empty), code=0).says("listing", "skipped", "nothing to try it on")


def test_nothing_to_try_it_on(shell: Shell, lab: Lab) -> None:
    """An account without runs, and one whose runs are empty."""
    page = {"data": [], "meta": {"page": {"number": 0, "last_number": 0}}}
    lab.fault("runs", {"body": json.dumps(page)})
    ask(shell, code=0).says("listing", "skipped", "no run", "nothing to try it on")
    lab.faults()
    lab.fault("listing", {"body": json.dumps({"data": {"attributes": {"files": [], "path_in_project": "p"}}})})
    told = ask(shell, code=0)
    told.says("listing", "skipped", "of 5 runs none", "--run")
    assert told.requests == {"runs": 1, "listing": 5}


# --- what the service grants ----------------------------------------------------------------------------

# Forms of a service, and what is found: (check, mark, what it says). Each form shows in a check of its own, so
# that several are tried together.
GRANTED: list[tuple[dict[str, object], list[tuple[str, str, str]]]] = [
    (
        {"slash": "required", "ranges": "ignored", "etag": "strong", "index": "404", "rate_limit_headers": False,
         "clock_skew_s": 3630},
        [("directories", "good", "with a slash"), ("contents", "warning", "ranges are ignored"),
         ("validators", "good", "ETag"), ("index", "warning", "404"), ("rate limit", "skipped", "does not tell"),
         ("clock", "warning", "60 min behind")],
    ),
    (
        {"slash": "refused", "redirect": "other", "etag": "weak", "index": "ghosts", "clock_skew_s": -86400 * 9},
        [("directories", "good", "without a slash at the end"), ("contents", "good", "after 1 redirect"),
         ("validators", "skipped", "weak"), ("index", "warning", "not there"), ("clock", "warning", "9 d 0 h ahead")],
    ),
    (
        {"depth": "recursive", "last_modified": True, "index": "empty", "page_base": 1, "page_meta": "none"},
        [("directories", "good", "with a slash"), ("validators", "good", "Last-Modified"),
         ("index", "warning", "lacks"), ("service", "good", "is a Model Lab")],
    ),
    (
        {"base": "relative", "redirect": "loop", "index": "other"},
        [("directories", "good", "the queried directory"), ("contents", "fault", "redirects"),
         ("index", "warning", "lacks")],
    ),
    (
        {"wrong_content": "html", "index": "html"},
        [("contents", "fault", "HTML"), ("index", "warning", "no project's listing")],
    ),
    (
        {"wrong_content": "wrong_range", "index": "cut"},
        [("contents", "fault", "asked for bytes"), ("index", "warning", "no project's listing")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("switches", "found"), GRANTED, ids=[str(switches) for switches, _ in GRANTED])
def test_what_is_granted(
    switches: dict[str, object], found: list[tuple[str, str, str]], shell: Shell, lab: Lab
) -> None:
    """Each form that a service may have is reported as it is; only what keeps files from being read is a fault."""
    lab.switch(**switches)
    is_faulty = any(mark == "fault" for _, mark, _ in found)
    told = ask(shell, "--run", str(sample.RUN), code=ExitCode.UNHEALTHY if is_faulty else 0)
    for check, mark, said in found:
        told.says(check, mark, said)


def test_an_index_that_stalls(shell: Shell, lab: Lab) -> None:
    """It costs its own time only: all else is reported, and a mount works."""
    lab.switch(index="stall")
    told = ask(shell, "--deadline", "1s", code=0)
    told.says("index", "warning", "no answer" if "no answer" in told.checks["index"]["fact"] else "did not answer")
    told.says("contents", "good")


# --- a service that is not ------------------------------------------------------------------------------


def test_wrong_keys(shell: Shell) -> None:
    """One call is made, and the keys are not said."""
    told = ask(shell, env={"DD_APP_KEY": "wrong-key-of-mine"}, code=ExitCode.UNHEALTHY)
    told.says("service", "fault", "keys are rejected", "403", "DD_API_KEY")
    assert told.requests == {"runs": 1}
    assert "wrong-key-of-mine" not in json.dumps(told.checks)


def test_no_keys(shell: Shell) -> None:
    """The service is looked for all the same."""
    told = ask(shell, env={"DD_APP_KEY": None, "DD_API_KEY": None}, code=ExitCode.UNHEALTHY)
    told.says("keys", "fault", "no API key", "artifactfs login")
    told.says("service", "good", "asks for keys")
    told.says("clock", "good")


# What each error is to the doctor: tests/unit/test_doctor_service_findings.py.
FAULTS: list[tuple[dict[str, object], str, list[str]]] = [
    ({"status": 401}, "fault", ["keys are rejected"]),
    ({"html": True, "status": 403}, "fault", ["an HTML page"]),
    (
        {"status": 302, "headers": {"Location": "https://elsewhere.invalid/login"}},
        "fault",
        ["no Model Lab", "redirect"],
    ),
    ({"rate_limit": {"reset_s": 3000, "period": 3600}}, "fault", ["rate-limiting", "sleep"]),
    ({"stall": True}, "fault", ["did not answer"]),
    ({"cut_after": -1}, "fault", ["connection", "lost"]),
]


@pytest.mark.parametrize(("then", "mark", "said"), FAULTS, ids=[str(row[0]) for row in FAULTS])
def test_a_service_that_fails(then: dict[str, object], mark: str, said: list[str], shell: Shell, lab: Lab) -> None:
    """Each is reported with what fixes it, and nothing more is asked."""
    lab.fault("runs", then)
    told = ask(shell, "--deadline", "2s", code=ExitCode.UNHEALTHY)
    told.says("service", mark, *said)
    assert set(told.requests) == {"runs"}


def test_a_service_that_fails_once(shell: Shell, lab: Lab) -> None:
    """A mount would try again, so it is a warning."""
    lab.fault("runs", {"status": 503}, times=1)
    told = ask(shell, code=0)
    told.says("service", "warning", "after it had failed with 503")
    assert told.requests["runs"] == 2


def test_keys_that_may_not_read(shell: Shell, lab: Lab) -> None:
    lab.fault("content", {"status": 403})
    told = ask(shell, code=ExitCode.UNHEALTHY)
    told.says("contents", "fault", "list, but not read")
    assert told.requests == ALL


def test_no_mount_is_there(shell: Shell, own_lab: Lab) -> None:
    shell.lab = own_lab
    own_lab.stop()
    told = Told(shell.cli("doctor", "--json", "--api-url", own_lab.url, "--deadline", "2s"))
    assert told.code == ExitCode.UNHEALTHY
    told.says("service", "fault", "refuses connections")


def test_tls(shell: Shell, lab: Lab) -> None:
    """An untrusted certificate, one that is trusted, one of another host: each as OpenSSL says it."""
    cert, key = certificate(shell.make_directory("tls"), "127.0.0.1")
    with tls_proxy(lab.port, cert, key, connect=False) as front:
        url = ("--api-url", f"https://127.0.0.1:{front.port}")
        told = Told(shell.cli("doctor", "--json", *url))
        told.says("service", "fault", "self-signed", "--ca-file")
        told = Told(shell.cli("doctor", "--json", *url, "--ca-file", cert))
        told.says("service", "good")
        told.says("certificates", "good", "1 trusted", cert)
    other = certificate(shell.make_directory("other"), "elsewhere.invalid")
    with tls_proxy(lab.port, *other, connect=False) as front:
        told = Told(
            shell.cli("doctor", "--json", "--api-url", f"https://127.0.0.1:{front.port}", "--ca-file", other[0])
        )
        told.says("service", "fault", "certificate is not valid for", "--site")
    told = Told(shell.cli("doctor", "--json", "--api-url", lab.url, "--ca-file", key))
    told.says("certificates", "fault", key)
    told.says("service", "skipped", "no certificates")


def test_a_proxy(shell: Shell, lab: Lab) -> None:
    """A site through a proxy; a proxy that is not there; the proxy's password is not said."""
    cert, key = certificate(shell.make_directory("tls"), "api.datadoghq.eu")
    with tls_proxy(lab.port, cert, key) as front:
        options = ("--site", "datadoghq.eu", "--ca-file", cert, "--deadline", "5s")
        done = shell.cli("doctor", "--json", *options, "--proxy", f"http://me:pass-word@127.0.0.1:{front.port}")
        told = Told(done)
        told.says("service", "good", f"through the proxy http://***@127.0.0.1:{front.port}")
        assert "pass-word" not in done.text + done.err
        wrong_keys = shell.cli(
            "doctor", "--json", *options, "--proxy", f"http://127.0.0.1:{front.port}", env={"DD_APP_KEY": "x"}
        )
        Told(wrong_keys).says("service", "fault", "datadoghq.eu rejects the keys", "another site", "DD_SITE")
    # Held: it might be another test's server by now.
    with held_port(front.port):
        proxy = ("--proxy", f"http://me:pass-word@127.0.0.1:{front.port}")
        told = Told(shell.cli("doctor", "--json", *options, *proxy))
        refused = f"the proxy http://***@127.0.0.1:{front.port} refuses connections"
        told.says("service", "fault", refused, "artifactfs doctor --proxy")
        done = shell.cli("mount", *options, *proxy, shell.directory_for_mount())
        assert (done.code, done.err) == (
            11,
            f"artifactfs: {refused}; check --site, --api-url and --proxy, and that the service is up; "
            "`artifactfs doctor` says more\n",
        )


# --- how it is reported -------------------------------------------------------------------------------------


def test_for_people(shell: Shell, lab: Lab) -> None:
    """A line for each check, with its mark; below what is wrong, the command; at the end one sentence."""
    done = shell.cli("doctor", "--api-url", lab.url).ok()
    lines = done.text.splitlines()
    assert all(line[:2] in ("✓ ", "! ", "- ") or line.startswith("  → ") for line in lines[:-1])
    assert lines[-1].startswith("A mount works here")
    assert "\x1b" not in done.text
    offline = shell.cli("doctor", "--offline").ok()
    assert offline.text.splitlines()[-1].endswith(", as far as this machine goes.")
    done = shell.cli("doctor", "--api-url", lab.url, env={"DD_APP_KEY": "x"})
    assert done.code == ExitCode.UNHEALTHY
    assert "✗ service: " in done.text
    assert "  → artifactfs login" in done.text
    assert done.err == "artifactfs: something is wrong: service\n"


def test_a_terminal_without_unicode(shell: Shell, lab: Lab) -> None:
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = shell.cli("doctor", "--api-url", lab.url, shell.path("späth"), env=env)
    assert done.code == ExitCode.UNHEALTHY
    assert "XX mount point: " in done.text
    assert done.text.isascii()


def test_colour_on_a_terminal(shell: Shell, lab: Lab) -> None:
    """Colours are for terminals; NO_COLOR says none."""
    command = f"{shell.program[0]} doctor --offline"
    on = shell.env | {"TERM": "xterm-256color"}
    for env, coloured in ((on, True), (on | {"NO_COLOR": "1"}, False)):
        with start_process(("script", "-qec", command, "/dev/null"), env=env) as process:
            out, _ = process.communicate(timeout=30)
        assert ("\x1b[32m✓".encode() in out) == coloured, out[:300]


def test_ctrl_c(shell: Shell, lab: Lab) -> None:
    """While it waits for a service that stalls, it ends at once with 130, without a traceback."""
    lab.fault("runs", {"stall": True})
    lab.reset()
    with shell.background("doctor", "--api-url", lab.url) as process:
        wait_until(lambda: lab.requests().get("runs"), "the request")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_a_broken_config(shell: Shell, lab: Lab) -> None:
    """It is a finding among others, and the service is not asked, as its place may be in there."""
    os.makedirs(shell.path("config/artifactfs"))
    with open(shell.path("config/artifactfs/config.toml"), "w", encoding="ascii") as file:
        file.write("no_such_setting = 1\n")
    os.chmod(file.name, 0o644)
    told = ask(shell, code=ExitCode.UNHEALTHY)
    told.says("settings", "fault", file.name)
    told.says("service", "skipped", "settings")
    told.says("fuse device", "good")
    assert told.requests == {}


def test_readers_that_stop(shell: Shell, lab: Lab) -> None:
    """A pipe that is closed by its reader ends it without a word."""
    done = run(*without_reader(*shell.program, "doctor", "--offline"), env=shell.env)
    assert (done.text, done.err) == ("141\n", "")


def test_a_ca_file_that_is_a_pipe(shell: Shell, lab: Lab) -> None:
    """A pipe into which no process writes: it is reported, and the service is not asked."""
    os.mkfifo(shell.path("ca"))
    told = ask(shell, "--ca-file", shell.path("ca"), code=ExitCode.UNHEALTHY)
    told.says("certificates", "fault", "it is not a regular file")
    told.says("service", "skipped", "certificates")


@pytest.mark.parametrize("arguments", [["--run", "0"], ["a", "b"]])
def test_bad_input(arguments: list[str], shell: Shell) -> None:
    done = shell.cli("doctor", *arguments)
    assert done.code == ExitCode.USAGE
    assert done.err.count("\n") == 1
    assert "doctor --help" in done.err
