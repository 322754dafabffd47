""".ci/bench.py: what `make bench` says, what it leaves, and where its table goes. Nothing is measured here."""

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wait_until

CHECKOUT = Path(__file__).parents[2]


def load(name: str) -> Any:
    """Import a script of .ci, under its own name: they import each other by it."""
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables, bench = load("bench_tables"), load("bench")

TIMES = "\N{MULTIPLICATION SIGN}"
PARTS = "0.25 s | 0.12 s |"
ENDS = "| the server's part | CPU of the mount |"
CAPTION = "Measured 2026-11-23 with `make bench`."


def row(name: str, ours: float | None, rclone: float | None, bare: float | None, requests: float = 0) -> dict[str, Any]:
    """Return a row as compare.py's JSON has it."""
    found = {"row": name, "artifactfs": ours, "rclone": rclone, "bare": bare, "requests": requests}
    return found | {"served_s": 0.25, "cpu_s": 0.125}


def comparison(index: bool, *rows: dict[str, Any], delay_s: float = 0.02) -> Any:
    return tables.Comparison(delay_s, index, {one["row"]: one for one in rows})


# --- tables and README.md -----------------------------------------------------------------------------------


def test_the_readme_has_a_place_for_the_table() -> None:
    """The markers are there, and between them what was measured, or nothing yet."""
    found = tables.reports((CHECKOUT / "README.md").read_text(encoding="utf-8"))
    assert all(map(tables.is_report, found))


def test_the_table() -> None:
    """Seconds, requests and memory of ours, with an index and without one, beside rclone's and the bare binding's."""
    text = tables.report(
        CAPTION,
        [
            comparison(True, row("find, cold", 0.4217, 22.5, None, 12), row("memory (KiB)", 40960, 110592, 20480)),
            comparison(False, row("find, cold", 2.1, 23.1, None, 1035), row("find, warm", 0.4, 0.352, 0.35, 1)),
            comparison(True, row("find, cold", 1.5, 225, None, 1.5), delay_s=0.2),
        ],
    )
    assert text.splitlines() == [
        CAPTION,
        "",
        f"| 20 ms a request | artifactfs | artifactfs without an index | rclone | bare binding {ENDS}",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| find, cold | 0.422 s, 12 requests, 53{TIMES} | 2.10 s, 1,035 requests, 11{TIMES} | 22.5 s |  | {PARTS}",
        f"| memory | 40 MiB, 2.7{TIMES} |  | 108 MiB | 20 MiB |  |  |",
        f"| find, warm |  | 0.400 s, 1 request, 0.88{TIMES} | 0.352 s | 0.350 s | {PARTS}",
        "",
        f"| 200 ms a request | artifactfs | rclone | bare binding {ENDS}",
        "| --- | --- | --- | --- | --- | --- |",
        f"| find, cold | 1.50 s, 2 requests, 150{TIMES} | 225 s |  | {PARTS}",
    ]
    assert tables.is_report(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        CAPTION,
        "Measured once.\n\n| 20 ms a request | artifactfs |\n| --- | --- |\n| find | 1 s |",
        f"{CAPTION}\n\n| 20 ms a request | artifactfs |\n| --- | --- |",
        f"{CAPTION}\n\n| 20 ms a request | artifactfs |\n| --- | --- |\n| find | 1 s | 2 s |",
        f"{CAPTION}\n\n| option | environment |\n| --- | --- |\n| find | 1 s |",
    ],
)
def test_what_is_no_table_of_ours(text: str) -> None:
    """A text by hand, half a table or another one is not taken for a measurement."""
    assert not tables.is_report(text)


def test_the_table_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--readme puts what was measured in full between the markers, any number of times, and touches nothing else."""
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    assert bench.main(["--out", str(tmp_path), "--readme"]) == 1
    for text in ("first\n", "second\n", "second\n"):
        (tmp_path / "readme.md").write_text(text)
        assert bench.main(["--out", str(tmp_path), "--readme"]) == 0
        assert readme.read_text() == f"before\n<!-- bench -->\n{text}<!-- /bench -->\nafter\n"


def test_a_report_for_each_processor() -> None:
    """A report takes the place of the one of the same processors, and of no other."""

    def report(processors: str, ours_s: float) -> str:
        caption = f"Measured 2026-11-23 with `make bench`, medians of 3: {processors}, 24 GiB of memory."
        return str(tables.report(caption, [comparison(True, row("find", ours_s, 2, None))])).strip()

    readme = f"a{tables.BEGIN}{tables.END}b"
    one, other = "2 CPUs (Intel(R) Xeon(R) Processor)", "1 CPU (AMD EPYC)"
    for processors, ours_s in ((one, 1), (other, 2), (one, 3)):
        readme = tables.put_between(readme, report(processors, ours_s))
    assert tables.reports(readme) == [report(other, 2), report(one, 3)]


@pytest.mark.parametrize("text", ["", "<!-- bench -->", "<!-- /bench --><!-- bench -->", "<!-- bench -->" * 2])
def test_without_the_markers(text: str) -> None:
    """Where the place is not clear, nothing is written."""
    with pytest.raises(tables.Failed, match=r"^README.md does not have"):
        tables.put_between(text, "new")


def test_the_machine() -> None:
    """Its class, not its name."""
    here = tables.machine(
        "processor : 0\nmodel name\t: A CPU @ 2GHz\nmodel name\t: A CPU @ 2GHz\n", "MemTotal: 8147128 kB\n"
    )
    assert "(A CPU @ 2GHz), 8 GiB of memory, Linux " in here
    assert os.uname().nodename not in here
    assert "Linux" in tables.machine("", "")


# --- what goes wrong ----------------------------------------------------------------------------------------

CALLED = "Command '['/x/bin/artifactfs', 'mount', PosixPath('/tmp/mnt')]' returned non-zero exit status 11."


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "exit code 1"),
        ("artifactfs: find, cold: find: one\nfind: two\n", "artifactfs: find, cold: find: one find: two"),
        ("Traceback (most recent call last):\n  File x\nFileNotFoundError: rclone\n", "FileNotFoundError: rclone"),
        (
            "artifactfs: the service cannot be reached\n"
            f"Traceback (most recent call last):\n  File x\nsubprocess.CalledProcessError: {CALLED}\n",
            "artifactfs mount: artifactfs: the service cannot be reached",
        ),
        (
            "Traceback (most recent call last):\n  File x\nNameError: y\n"
            f"Traceback (most recent call last):\n  File x\nsubprocess.CalledProcessError: {CALLED}\n",
            "artifactfs mount: NameError: y",
        ),
        (
            f"Traceback (most recent call last):\n  File x\nsubprocess.CalledProcessError: {CALLED}\n",
            f"artifactfs mount: subprocess.CalledProcessError: {CALLED}",
        ),
    ],
)
def test_the_reason_in_one_line(said: str, why: str) -> None:
    """What a program said before it failed, shortened to what tells why."""
    assert bench.reason(said, 1) == why


def test_a_row_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says why; what can be measured without it is."""
    program = tmp_path / "compare.py"
    program.write_text(
        "import json, sys\n"
        "options = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "if options['--only'] in ('', 'cat '):\n"
        "    raise SystemExit('rclone: cat it again:\\nno such file')\n"
        "json.dump([{'row': options['--only'], 'delay': options['--delay']}], open(options['--json'], 'w'))\n"
    )
    options = argparse.Namespace(out=tmp_path, repeat=2, only="")
    found = tables.Comparison(0.05, False)
    bench.compare(program, found, options, tmp_path)
    assert found.failures == ["rclone: cat it again: no such file"]
    assert list(found.rows) == ["find", "ls -l, ", "stat ", "read "]
    assert capsys.readouterr().err == (
        "bench: 50 ms a request, without an index: not measured: rclone: cat it again: no such file\n"
    )


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends what was started: the program, its children, and what it left in the background in our directory."""
    program, ready, started = tmp_path / "program.py", tmp_path / "ready", tmp_path / "started"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program.write_text(
        "import os, signal, subprocess, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "wait = [sys.executable, '-c', 'import signal; signal.pause()']\n"
        "child = subprocess.Popen(wait)\n"
        "background = subprocess.Popen([*wait, os.environ['TMPDIR'] + '/mnt'], start_new_session=True)\n"
        f"open({str(started)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} {{background.pid}}')\n"
        f"os.rename({str(started)!r}, {str(ready)!r})\n"
        "signal.pause()\n"
    )
    has_ended = bench._has_ended
    asked: list[int] = []

    def interrupting(pid: int) -> bool:
        if ready.exists() and not asked:
            asked.append(signal.SIGINT)
        return bool(has_ended(pid))

    monkeypatch.setattr(bench, "_asked", asked)
    monkeypatch.setattr(bench, "_has_ended", interrupting)
    monkeypatch.setattr(bench, "_UNWIND_S", 0.1)
    monkeypatch.setattr(bench, "_LINGER_S", 0.1)
    with pytest.raises(bench.Interrupted):
        bench.run([sys.executable, program], scratch, tmp_path / "out")
    for pid in map(int, ready.read_text().split()):
        # A zombie has no command line; who reaps it is not ours to say.
        wait_until(lambda pid=pid: not _command_line(pid), f"process {pid} ends")  # type: ignore[misc]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_what_is_kept_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's keys, settings, proxies and caches are not the benchmark's."""
    for name in ("DD_API_KEY", "ARTIFACTFS_LISTING_TTL", "RCLONE_TRANSFERS", "https_proxy", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "mine")
    out = tmp_path / "out"
    code, said = bench.run([sys.executable, "-c", "import os; print(*os.environ.items(), sep='\\n')"], tmp_path, out)
    assert (code, said) == (0, "")
    assert "mine" not in out.read_text()
    assert f"('HOME', '{tmp_path}/HOME')" in out.read_text()
