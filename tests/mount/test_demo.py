"""`artifactfs demo` and `artifactfs serve`: emulator and mount in one, in front and in the background."""

import json
import os
import signal
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.harness import ARTIFACTFS, END_S, FUSE_TYPE, Lab, Shell, holding, mount_type, run, start_process, wait_until

NO_KEYS: dict[str, str | None] = {"DD_API_KEY": None, "DD_APP_KEY": None}


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stays_in_front_until_a_signal(way: signal.Signals, shell: Shell, lab: Lab) -> None:
    """5.6: `demo -f` mounts the sample without keys, stays in front, and ends with 0, the emulator with it."""
    mounted = shell.expected_mount()
    with shell.background("demo", "-f", mounted.point, env=NO_KEYS) as process:
        wait_until(lambda: mount_type(mounted.point) == FUSE_TYPE, "the mount")
        assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
        assert process.poll() is None
        process.send_signal(way)
        _, err = process.communicate(timeout=2 * END_S)
        assert process.returncode == 0, err
        assert b"Traceback" not in err
        assert b"WARNING" not in err
    assert mount_type(mounted.point) is None
    wait_until(lambda: not shell.processes(), "the end of the emulator", END_S)


def test_the_demo_in_the_background(shell: Shell, lab: Lab) -> None:
    """5.6: `demo` returns when the mount answers, and says where; `umount` ends it and its emulator."""
    mounted = shell.expected_mount()
    # What the settings say of mounts of a service is none of its business.
    env = NO_KEYS | {"ARTIFACTFS_OFFLINE": "always"}
    done = shell.cli("demo", "--log-file", mounted.log_file, mounted.point, env=env).ok()
    where = f"the sample is at {mounted.point}: try `ls {mounted.point}/runs/70158`"
    assert (done.text, done.err) == ("", f"{where}; `artifactfs umount {mounted.point}` ends it\n")
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert len(shell.processes()) == 2
    mounted.umount()
    assert mount_type(mounted.point) is None
    wait_until(lambda: not shell.processes(), "the end of the emulator", END_S)


def test_in_front_or_in_the_background(shell: Shell) -> None:
    """Both at once is an error of one line, and no mount."""
    point = shell.path("nowhere")
    done = shell.cli("demo", "-f", "--background", point, env=NO_KEYS)
    said = "artifactfs: give --foreground or --background, not both; see `artifactfs demo --help`\n"
    assert (done.code, done.err, os.path.lexists(point)) == (ExitCode.USAGE, said, False)


def test_a_killed_demo_leaves_no_emulator(shell: Shell) -> None:
    """5.6: when the demo's process is killed its emulator ends too, and the next demo at that place works."""
    mounted = shell.expected_mount()
    start = ("demo", "-q", "--background", "--log-file", mounted.log_file, mounted.point)
    assert shell.cli(*start, env=NO_KEYS).ok().err == ""
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: not shell.processes(), "the end of the emulator", END_S)
    shell.cli(*start, env=NO_KEYS).ok()
    assert "runs" in mounted.sh('ls "$M"').text


def test_the_demo_makes_and_takes_its_directory(shell: Shell) -> None:
    """5.6: a directory that the demo made goes with it."""
    point = shell.path("made/by/demo")
    with shell.background("demo", "--foreground", point, env=NO_KEYS) as process:
        wait_until(lambda: mount_type(point) == FUSE_TYPE, "the mount")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=2 * END_S)
    assert mount_type(point) is None
    assert not os.path.exists(point)


def test_the_demo_at_a_place_that_is_taken(shell: Shell) -> None:
    """5.8: a demo on a mount is refused in one line, and leaves no emulator."""
    mounted = shell.mount()
    before = shell.processes()
    for way in (["-f"], []):
        done = shell.cli("demo", *way, mounted.point)
        assert done.code == ExitCode.ALREADY_MOUNTED
        assert done.err.count("\n") == 1
    assert shell.processes() == before


def test_a_directory_served_and_mounted(shell: Shell, tmp_path: Path, lab: Lab) -> None:
    """1.1: `serve DIR` and a mount of it show DIR/<run id>/… as it is on the disk, also when it changes."""
    served = tmp_path / "served"
    (served / "7" / "deep" / "er").mkdir(parents=True)
    (served / "7" / "deep" / "er" / "caf\u00e9 1%.txt").write_bytes(b"12345")
    (served / "no-run").mkdir()
    mounted = shell.expected_mount()
    with start_process([*shell.program, "serve", str(served)], env=shell.env) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        env = {"DD_API_KEY": told["api_key"], "DD_APP_KEY": told["app_key"]}
        ttl = ("--listing-ttl", "0", "--finished-ttl", "0")
        options = (*ttl, "--api-url", told["url"], "--log-file", mounted.log_file)
        shell.cli("mount", *options, mounted.point, env=env).ok()
        assert mounted.sh('ls "$M/runs"').text == "7\n"
        assert mounted.tree(7) == {b"deep": None, b"deep/er": None, "deep/er/caf\u00e9 1%.txt".encode(): 5}
        (served / "7" / "new").write_bytes(b"1")
        # Its refresh may take longer than the second after which the old listing is shown.
        wait_until(lambda: mounted.tree(7).get(b"new") == 1, "the new file")
        mounted.umount()


def test_what_serve_prints_mounts_it(shell: Shell, lab: Lab) -> None:
    """Without DIR it serves the sample; the line that it prints for that mounts it, where it is pasted."""
    mounted = shell.expected_mount()
    os.symlink(mounted.point, shell.path("home/model-lab"))
    with start_process([*shell.program, "serve"], env=shell.env) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"mount it, in another terminal (Ctrl-C ends it here):\n"
        pasted = process.stderr.readline().decode().replace("mount ", f"mount --log-file {mounted.log_file} ")
        env = {**shell.env, "PATH": f"{os.path.dirname(ARTIFACTFS)}:{os.environ['PATH']}", "DD_API_KEY": "x"}
        run("sh", "-c", pasted, env=env).ok()
        assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
        mounted.umount()


def test_a_directory_without_runs(shell: Shell, tmp_path: Path) -> None:
    """`serve` of a directory that is a run itself, say, warns in one line, and serves: a run may come."""
    (tmp_path / "model").mkdir()
    with start_process([*shell.program, "serve", str(tmp_path)], env=shell.env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["url"]
        warning = process.stderr.readline().decode()
    assert warning == (f"artifactfs: warning: no subdirectory of {tmp_path} is a run's number: nothing is served\n")


def test_a_wedged_mount_can_be_ended(shell: Shell) -> None:
    """5.6: `umount` ends a mount whose process hangs: it never looks at the mount, and kills what does not end."""
    mounted = shell.mount()
    os.kill(mounted.pid, signal.SIGSTOP)
    mounted.umount()
    assert mount_type(mounted.point) is None
    wait_until(lambda: not shell.processes(), "the end of the process", END_S)


def test_standard_descriptors_that_are_closed(shell: Shell, lab: Lab) -> None:
    """5.6: called with standard input, output and error closed, as some services are, it mounts all the same."""
    mounted = shell.expected_mount()
    command = [*shell.program, "mount", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point]
    script = '"$@" <&- >&- 2>&-'
    run("sh", "-c", script, "sh", *command, env=shell.env).ok()
    assert mounted.sh('ls "$M"').text.endswith("runs\nsearch\n")


def test_two_mounts_side_by_side(shell: Shell, own_lab: Lab, lab: Lab) -> None:
    """5.6: two mounts know nothing of one another: the end of one is not the other's."""
    one, two = shell.mount(name="one"), shell.mount(name="two")
    run_id = lab.new_run()
    assert one.tree(run_id) == two.tree(run_id) == lab.truth(run_id)
    assert one.pid != two.pid
    one.umount()
    assert mount_type(one.point) is None
    assert two.tree(sample.RUN) == lab.truth(sample.RUN)
    with holding(two.python_command("print('ready', flush=True); input()")):
        os.kill(two.pid, signal.SIGKILL)
        wait_until(lambda: mount_type(one.point) is None, "still nothing at the first place")


def test_the_same_place_by_another_name(shell: Shell, lab: Lab) -> None:
    """5.6: a mount point given relatively, or through a symbolic link, is the place that it leads to."""
    mounted = shell.mount()
    os.symlink(mounted.point, shell.path("link"))
    done = shell.cli("mount", "--api-url", lab.url, shell.path("link"))
    assert done.code == ExitCode.ALREADY_MOUNTED
    shell.cli("umount", shell.path("link")).ok()
    assert mount_type(mounted.point) is None
