"""`artifactfs config`, profiles and keys as they are typed: real commands, and mounts where it matters."""

import json
import os
import sys
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from artifactfs.settings import SETTINGS
from tests.harness import ARTIFACTFS, FUSE_TYPE, Lab, Shell, mount_type

NO_KEYS = {"DD_API_KEY": None, "DD_APP_KEY": None}


def write_config(shell: Shell, text: str) -> str:
    """Write the user's own config file; returns its path."""
    path = Path(shell.make_directory("config/artifactfs"), "config.toml")
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return str(path)


def test_show(shell: Shell) -> None:
    """A line for each setting, with its value and who said so; no key in it."""
    path = write_config(shell, 'listing_ttl = "5m"\n[profiles.eu]\nsite = "datadoghq.eu"\napp_key = "s3cr3t"\n')
    done = shell.cli("config", "show", "--profile", "eu", "-o", "umask=027", "-v", env={"DD_APP_KEY": None}).ok()
    lines = {line.split()[0]: " ".join(line.split()) for line in done.text.splitlines() if line}
    assert lines["config"] == f"config file {path}"
    assert lines["profile"] == "profile eu (--profile)"
    assert lines["profiles"] == "profiles eu"
    assert lines["site"] == f"site datadoghq.eu [profiles.eu] in {path}"
    assert lines["api_url"] == "api_url https://api.datadoghq.eu the site"
    assert lines["listing_ttl"] == f"listing_ttl 5m {path}"
    assert lines["umask"] == "umask 027 -o umask"
    assert lines["verbose"] == "verbose true --verbose"
    assert lines["api_key"] == "api_key set DD_API_KEY"
    assert lines["app_key"] == f"app_key set [profiles.eu] in {path}"
    assert lines["deadline"] == "deadline 30s default"
    assert {row.name for row in SETTINGS} <= lines.keys()
    assert "s3cr3t" not in done.text + done.err
    assert done.err == ""


def test_show_for_programs(shell: Shell) -> None:
    """The same as JSON: sizes in bytes, times in seconds, null for what is not set."""
    found = json.loads(shell.cli("config", "show", "--json", "--cache-size", "1G", env=NO_KEYS).ok().out)
    assert (found["config_file"], found["profile"], found["profiles"], found["warnings"]) == (None, None, [], [])
    assert list(found["settings"]) == [row.name for row in SETTINGS]
    assert found["settings"]["cache_size"] == {"value": 1 << 30, "source": "--cache-size"}
    assert found["settings"]["listing_ttl"] == {"value": 60.0, "source": "default"}
    assert found["settings"]["allow_other"] == {"value": False, "source": "default"}
    assert found["settings"]["api_key"] == {"value": None, "source": "default"}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_show_what_is_broken(form: tuple[str, ...], shell: Shell) -> None:
    """A value that makes no sense is shown with what is wrong; then one line on stderr, and the code of `mount`."""
    path = write_config(shell, 'deadline = "soon"\nsite = "datadoghq.eu"\n')
    done = shell.cli("config", "show", *form)
    assert done.code == ExitCode.BAD_CONFIG
    assert done.err.startswith(f"artifactfs: deadline in {path}: 'soon' is not a time")
    assert done.err.count("\n") == 1
    assert "datadoghq.eu" in done.text
    if form:
        assert json.loads(done.out)["settings"]["deadline"]["problem"].startswith("'soon' is not a time")
    assert shell.cli("mount", shell.directory_for_mount()).err == done.err


def test_it_takes_the_options_of_mount(shell: Shell) -> None:
    """Every one, except for -f: what is asked of it is what a mount would get."""

    def options(*command: str) -> set[str]:
        words = shell.cli(*command, "--help-all").ok().text.replace(",", " ").split()
        return {word for word in words if word.startswith("-") and word.strip("-")}

    mounts = options("mount")
    assert {"--profile", "--config", "--app-key-command", "--account", "-o", "-v"} <= mounts
    assert options("config", "show") == mounts - {"-f", "--foreground"} | {"--json"}


def test_path(shell: Shell) -> None:
    """Where the config file is, there or not."""
    own = shell.path("config/artifactfs/config.toml")
    assert shell.cli("config", "path").ok().text == own + "\n"
    assert shell.cli("config", "path", "--config", "/x/y.toml").ok().text == "/x/y.toml\n"
    assert shell.cli("config", "path", env={"ARTIFACTFS_CONFIG": "/z.toml"}).ok().text == "/z.toml\n"


@pytest.mark.parametrize(
    ("command", "arguments", "config", "code", "said"),
    [
        ("mount", ("--profile", "ue"), "[profiles.eu]\n", ExitCode.USAGE, "no profile 'ue'"),
        ("config show", ("--profile", "eu-1"), "[profiles.eu-west-1]\n", ExitCode.USAGE, "did you mean eu-west-1?"),
        ("mount", ("-o", "profile=x"), "", ExitCode.USAGE, "has none; add a table [profiles.x]"),
        ("config show", ("-o", "listing_tl=5"), "", ExitCode.USAGE, "did you mean listing_ttl?"),
        ("mount", ("-o", "config=/none.toml"), "", ExitCode.BAD_CONFIG, "/none.toml"),
        ("config show", (), "cache_sizes = 1", ExitCode.BAD_CONFIG, "did you mean cache_size?"),
        ("mount", (), "[profiles.eu]\nlisting_tt = 1", ExitCode.BAD_CONFIG, "did you mean listing_ttl?"),
        ("config show", (), 'cache_size = "5 elephants"', ExitCode.BAD_CONFIG, "not a size"),
        ("mount", (), 'listing_ttl = "5 parsecs"', ExitCode.BAD_CONFIG, "'parsecs' is no unit"),
        ("config show", ("--api-key-file", "/none"), "", ExitCode.KEYS_MISSING, "cannot read the key from /none"),
        (
            "mount",
            ("--app-key-command", "none-such x"),
            "",
            ExitCode.KEYS_MISSING,
            "its program 'none-such' was not found",
        ),
    ],
)
def test_bad_input(
    command: str, arguments: tuple[str, ...], config: str, code: ExitCode, said: str, shell: Shell
) -> None:
    """Unknown profiles, options, names and units: one line that names the nearest, or all, and a code of its own."""
    write_config(shell, config)
    place = [shell.directory_for_mount()] if command == "mount" else []
    done = shell.cli(*command.split(), *arguments, *place)
    assert done.code == code
    assert said in done.err
    assert done.err.startswith("artifactfs: ")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err


def test_a_profile_mounts(shell: Shell, lab: Lab) -> None:
    """Everything that a mount needs, by name: `artifactfs mount --profile lab PLACE`; its cache is found by it, too."""
    cache = shell.path("cache-of-the-profile")
    write_config(
        shell,
        f'site = "datadoghq.eu"\n[profiles.lab]\napi_url = "{lab.url}"\ncache_dir = "{cache}"\n'
        f'api_key = "{lab.api_key}"\napp_key_command = ["printf", "%s", "{lab.app_key}"]\n',
    )
    mounted = shell.expected_mount()
    log = ("--log-file", mounted.log_file)
    assert shell.cli("mount", "--profile", "lab", *log, mounted.point, env=NO_KEYS).ok().err == ""
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert cache in shell.cli("cache", "info", "--profile", "lab", env=NO_KEYS).ok().text
    mounted.umount()
    options = f"config={shell.path('config/artifactfs/config.toml')},profile=lab,noatime"
    shell.cli("mount", "-o", options, *log, mounted.point, env={**NO_KEYS, "XDG_CONFIG_HOME": "/nonexistent"}).ok()
    assert mount_type(mounted.point) == FUSE_TYPE


def test_a_warning_does_not_stop_a_mount(shell: Shell, lab: Lab) -> None:
    """A typing error in a variable's name, and a profile that the environment overrides, are reported on stderr."""
    write_config(shell, f'[profiles.lab]\napi_url = "{lab.url}"\napp_key = "another"\n')
    mounted = shell.expected_mount()
    done = shell.cli(
        "mount", "--profile", "lab", "--log-file", mounted.log_file, mounted.point, env={"ARTIFACTFS_DEADLIN": "5"}
    ).ok()
    warnings = done.err.splitlines()
    assert [line.partition("warning: ")[2].split()[0] for line in warnings] == ["ARTIFACTFS_DEADLIN", "DD_APP_KEY"]


def test_a_command_may_ask_at_the_mount(shell: Shell, lab: Lab) -> None:
    """At the mount it has the terminal, as when it is typed; the answer is not shown, nor is the key."""
    script = Path(shell.path("asks"))
    script.write_text(
        "#!/bin/sh\nprintf 'passphrase: ' > /dev/tty\nread -r answer < /dev/tty\n"
        f'[ "$answer" = sesame ] && echo {lab.app_key}\n',
        "utf-8",
    )
    script.chmod(0o700)
    mounted = shell.expected_mount()
    code = "import os, pty, sys\nsys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    shell.program = (sys.executable, "-c", code, ARTIFACTFS)
    with shell.background(
        "mount", "--api-url", lab.url, "--app-key-command", str(script), "--log-file", mounted.log_file, mounted.point
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"sesame\n")
        process.stdin.flush()
        assert process.wait(30) == 0
        assert process.stdout is not None
        said = process.stdout.read()
    assert b"passphrase: " in said
    assert lab.app_key.encode() not in said
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)


def test_no_command_is_run_in_vain(shell: Shell) -> None:
    """A missing mount point is reported before a passphrase is asked for."""
    marker = shell.path("was-run")
    done = shell.cli("mount", "--app-key-command", f"touch {marker}", shell.path("none"))
    assert done.code == ExitCode.MOUNTPOINT_MISSING
    assert not os.path.exists(marker)


def test_profiles_are_completed(shell: Shell) -> None:
    """A shell completes `--profile e` from the config file that was named, or else the user's own; never an error."""
    write_config(shell, "[profiles.eu]\n[profiles.eu-2]\n[profiles.us]\n")
    other = Path(shell.path("other.toml"))
    other.write_text("[profiles.elsewhere]\n", "utf-8")

    def completed(*words: str) -> list[str]:
        env = {
            "_ARTIFACTFS_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["artifactfs", *words]),
            "COMP_CWORD": str(len(words)),
        }
        done = shell.cli(env=env)
        assert done.err == ""
        return [line.partition(",")[2] for line in done.text.splitlines() if line]

    assert completed("mount", "--profile", "e") == ["eu", "eu-2"]
    assert completed("config", "show", "--config", str(other), "--profile", "e") == ["elsewhere"]
    other.write_text("broken =", "utf-8")
    assert completed("config", "show", "--config", str(other), "--profile", "e") == []


def test_the_demo_has_no_account(shell: Shell) -> None:
    """It runs no command, reads no key and belongs to no account, whatever the config file says."""
    marker = shell.path("was-run")
    write_config(shell, f'account = "me"\napp_key_command = "touch {marker}"\napi_key_file = "/none"\n')
    mounted = shell.expected_mount()
    shell.cli("demo", "--log-file", mounted.log_file, mounted.point, env=NO_KEYS).ok()
    assert mounted.sh('ls "$M/runs"').ok().text
    assert not os.path.exists(marker)
