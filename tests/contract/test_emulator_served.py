"""A served emulator: what only a socket can show, and the command's life."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from artifactfs.emulator.app import API

COMMAND = [sys.executable, "-m", "artifactfs.emulator"]
DEADLINE_S = 20  # of one wait on a shared machine
BIG = 8 << 20  # bytes; more than the socket buffers hold


class Served:
    """A running emulator and a client with its keys."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.told: dict[str, str] = json.loads(process.stdout.readline())
        headers = {"DD-API-KEY": self.told["api_key"], "DD-APPLICATION-KEY": self.told["app_key"]}
        self.client = httpx.Client(base_url=self.told["url"], headers=headers, timeout=DEADLINE_S, trust_env=False)

    @property
    def address(self) -> tuple[str, int]:
        url = urlsplit(self.told["url"])
        return str(url.hostname), int(url.port or 0)

    def order(self, name: str, body: object) -> Any:
        """POST to the control plane."""
        answer = self.client.post(f"/_emulator/{name}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stats(self) -> Any:
        return self.client.get("/_emulator/stats").json()

    def fault(self, **then: object) -> None:
        """Let the next content request go wrong, and every later one right."""
        self.order("faults", [{"match": {"kind": "content"}, "times": 1, "then": then}])
        self.order("reset", {})

    def body(self, path: str = "big.bin") -> tuple[int | None, int, bool, str]:
        """GET a file of run 9001: (status, bytes received, whether its end was promised, what broke it off)."""
        prefix = self.order("files", {"run": 9001, "file": "big.bin", "size": BIG})["path_in_project"]
        query = {"project_id": "9000", "artifact_path": f"{prefix}/{path}"}
        status, count, promised = None, 0, False
        try:
            with self.client.stream("GET", f"{API}/artifacts/content", params=query) as answer:
                status, promised = answer.status_code, "content-length" in answer.headers
                for piece in answer.iter_raw():
                    count += len(piece)
        except httpx.HTTPError as error:
            return status, count, promised, f"{type(error).__name__}: {error}"
        return status, count, promised, ""

    def wait_for_in_flight(self, count: int) -> None:
        """Ask until so many requests are in flight; control requests are none."""
        end = time.monotonic() + DEADLINE_S
        while self.stats()["in_flight"] != count:
            assert time.monotonic() < end


@contextmanager
def serving(*arguments: str, stdin: int | None = subprocess.DEVNULL) -> Iterator[Served]:
    """Run the command with `arguments` for as long as the context lasts; it must not have complained."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        served = Served(process)
        try:
            yield served
        finally:
            served.client.close()
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One emulator with the sample for the whole module."""
    with serving() as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def fresh(served: Served) -> None:
    """Every test starts without faults."""
    served.order("faults", [])


def test_a_whole_body_arrives(served: Served) -> None:
    """Without a fault the file comes whole: the measure for the tests below."""
    assert served.body() == (200, BIG, True, "")


@pytest.mark.parametrize("after", [0, 1000, (1 << 20) + 1])
def test_a_cut_closes_after_so_many_bytes(served: Served, after: int) -> None:
    """cut_after: the length is promised, exactly so many bytes come, then the connection ends in order."""
    served.fault(cut_after=after)
    status, count, promised, error = served.body()
    assert (status, count, promised) == (200, after, True)
    assert error.startswith("RemoteProtocolError: peer closed connection without sending complete message body")
    assert served.body() == (200, BIG, True, "")


def test_a_cut_before_any_answer_is_an_orderly_end(served: Served) -> None:
    """cut_after -1: the server closes without a byte."""
    served.fault(cut_after=-1)
    assert served.body() == (None, 0, False, "RemoteProtocolError: Server disconnected without sending a response.")


def test_a_chunked_body_can_be_cut(served: Served) -> None:
    """cut_after without a promised length: the chunks end without the last one."""
    served.order("switches", {"length": "chunked"})
    served.fault(cut_after=1000)
    status, count, promised, error = served.body()
    served.order("switches", {"length": "content-length"})
    assert (status, count, promised) == (200, 1000, False)
    assert error.startswith("RemoteProtocolError: peer closed connection")


def test_a_reset_before_any_answer(served: Served) -> None:
    """reset_after 0: RST instead of an answer."""
    served.fault(reset_after=0)
    status, count, _, error = served.body()
    assert (status, count) == (None, 0)
    assert error.startswith("ReadError: [Errno 104]")


@pytest.mark.parametrize("after", [1, 1000, (1 << 20) + 1])
def test_a_reset_comes_after_so_many_bytes(served: Served, after: int) -> None:
    """reset_after N: exactly N bytes of body arrive before the RST."""
    served.fault(reset_after=after)
    status, count, _, error = served.body()
    assert (status, count) == (200, after)
    assert error.startswith("ReadError: [Errno 104]")


def test_a_stall_ends_with_the_client(served: Served) -> None:
    """stall: no byte comes while the client waits, and the server lets go when the client goes."""
    served.fault(stall=True)
    with pytest.raises(httpx.ReadTimeout):
        served.client.get(f"{API}/artifacts/content", timeout=0.1)
    served.wait_for_in_flight(0)
    assert served.stats()["log"][-1]["status"] is None


def test_a_stall_in_a_body_keeps_the_connection(served: Served) -> None:
    """stall_after: so many bytes, then silence on an open connection."""
    prefix = served.order("files", {"run": 9001, "file": "big.bin", "size": BIG})["path_in_project"]
    served.fault(stall_after=5000)
    query = {"project_id": "9000", "artifact_path": f"{prefix}/big.bin"}
    received: list[bytes] = []
    request = served.client.build_request("GET", f"{API}/artifacts/content", params=query, timeout=2.0)
    answer = served.client.send(request, stream=True)
    with pytest.raises(httpx.ReadTimeout):
        received.extend(answer.iter_raw())
    answer.close()
    assert sum(map(len, received)) == 5000
    served.wait_for_in_flight(0)


def test_the_index_can_be_cut(served: Served) -> None:
    """The switch index=cut ends the connection half-way through the index."""
    served.order("switches", {"index": "cut"})
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed"):
        served.client.get(f"{API}/projects/2387/artifacts")
    served.order("switches", {"index": "full"})
    assert served.client.get(f"{API}/projects/2387/artifacts").status_code == 200


def test_a_client_that_leaves_stops_the_sending(served: Served) -> None:
    """A body whose reader is gone is not made any further."""
    size = 1 << 40
    prefix = served.order("files", {"run": 9002, "file": "huge.bin", "size": size})["path_in_project"]
    served.order("reset", {})
    query = {"project_id": "9000", "artifact_path": f"{prefix}/huge.bin"}
    with served.client.stream("GET", f"{API}/artifacts/content", params=query) as answer:
        next(answer.iter_raw())
    served.wait_for_in_flight(0)
    assert served.stats()["content_bytes"] < 1 << 30


def test_a_redirect_leads_to_another_origin(served: Served) -> None:
    """redirect=other leads to the second port of the same server, and the log tells who brought keys along."""
    prefix = served.order("files", {"run": 9001, "file": "big.bin", "size": BIG})["path_in_project"]
    served.order("switches", {"redirect": "other"})
    served.order("reset", {})
    query = {"project_id": "9000", "artifact_path": f"{prefix}/big.bin"}
    answer = served.client.get(f"{API}/artifacts/content", params=query)
    location = answer.headers["location"]
    assert location.startswith(served.told["other_url"] + "/")
    assert urlsplit(location).port != served.address[1]
    assert len(httpx.get(location, trust_env=False).content) == BIG
    served.client.get(location)
    served.order("switches", {"redirect": "none"})
    entries = [(entry["kind"], entry["keys"]) for entry in served.stats()["log"]]
    assert entries == [("content", True), ("storage", False), ("storage", True)]


def test_large_listings(served: Served) -> None:
    """100,000 entries in one directory, and 20,000 rows of index, are answered whole."""
    served.order("files", {"run": 9003, "project": 9100, "wide": 100_000})
    served.order("files", {"run": 9004, "project": 9101, "grid": {"dirs": 1000, "files": 20}})
    rows = served.client.get(f"{API}/runs/9003/artifacts", params={"path": "flat/"}).json()
    index = served.client.get(f"{API}/projects/9101/artifacts").json()
    assert len(rows["data"]["attributes"]["files"]) == 100_000
    assert len(index["data"]["attributes"]["files"]) == 20_000


def test_small_answers_do_not_wait_for_an_ack(served: Served) -> None:
    """Of fifty small requests on one connection some take less than a delayed ACK, 40 ms, with which all would wait."""

    def took_s() -> float:
        started = time.monotonic()
        served.client.get(f"{API}/runs/70158/artifacts")
        return time.monotonic() - started

    # The first ones are never delayed; and a busy machine makes some of the others wait, but not all.
    assert min([took_s() for _ in range(50)][25:]) < 0.035


def test_a_deep_path_of_multi_byte_names_fits_a_request(served: Served) -> None:
    """40 levels of 255 bytes, each byte three characters in the query, are a request like any other."""
    path = "/".join(["\u65e5" * 85] * 40)
    served.order("files", {"run": 9005, "add": {f"{path}/leaf": 1}})
    answer = served.client.get(f"{API}/runs/9005/artifacts", params={"path": path})
    assert answer.json()["data"]["attributes"]["files"] == [{"path": f"{path}/leaf", "is_dir": False, "file_size": 1}]


@pytest.mark.parametrize("then", [{"stall": True}, {"delay_s": 3600}])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quietly_with_0(number: signal.Signals, then: dict[str, object]) -> None:
    """SIGTERM and SIGINT: exit code 0 and nothing on stderr, though a request waits for its answer."""
    with serving("--no-sample") as emulator:
        emulator.order("faults", [{"match": {}, "then": then}])
        with socket.create_connection(emulator.address) as stalled:
            stalled.sendall(f"GET {API}/runs HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            emulator.wait_for_in_flight(1)
            emulator.process.send_signal(number)
            assert emulator.process.wait(DEADLINE_S) == 0


def test_it_ends_with_its_parent() -> None:
    """--until-stdin-closes: the end of standard input ends it, with 0."""
    with serving("--until-stdin-closes", "--no-sample", stdin=subprocess.PIPE) as emulator:
        assert emulator.client.get(f"{API}/runs").json()["data"] == []
        assert emulator.process.stdin is not None
        emulator.process.stdin.close()
        assert emulator.process.wait(DEADLINE_S) == 0


def test_a_directory_is_served_with_keys_and_switches_of_ones_own(tmp_path: Path) -> None:
    """DIR, --api-key, --app-key and --switch do what they say; the sample is not there unless asked for."""
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "a.txt").write_text("hello")
    options = ["--api-key", "one", "--app-key", "two", "--switch", "dir_slash=false", "--switch", "size_form=string"]
    with serving(str(tmp_path), *options) as emulator:
        assert (emulator.told["api_key"], emulator.told["app_key"]) == ("one", "two")
        answer = emulator.client.get(f"{API}/runs/5/artifacts").json()
        assert answer["data"]["attributes"]["files"] == [{"path": "a.txt", "is_dir": False, "file_size": "5"}]
        assert emulator.client.get(f"{API}/runs/70158").status_code == 404
        emulator.client.headers["DD-API-KEY"] = "demo-api-key"
        assert emulator.client.get(f"{API}/runs/5").status_code == 403


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-directory"], "no-such-directory is not a directory"),
        (["--switch", "slush=any"], "no switch 'slush'"),
        (["--switch", "slash=never"], "slash is one of any, required, refused, not 'never'"),
        (["--switch", "slash"], "'slash' is not NAME=VALUE"),
        (["--port", "70000"], "cannot listen on 127.0.0.1 port 70000"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 0"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_2(arguments: list[str], said: str) -> None:
    """What cannot be served is said in one line on stderr, exit code 2, nothing on stdout."""
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("artifactfs emulator: ")
    assert ended.stderr.count("\n") == 1
    assert said in ended.stderr


def test_a_port_in_use_is_one_sentence_and_2(served: Served) -> None:
    """A port that a process listens on is refused before anything is served."""
    port = str(served.address[1])
    ended = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=DEADLINE_S)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"artifactfs emulator: cannot listen on 127.0.0.1 port {port}: {os.strerror(98)}\n"


def test_a_live_script_runs_from_the_start(tmp_path: Path) -> None:
    """--live: a file grows while it is served, its run is made where it is not there."""
    script = tmp_path / "live.json"
    script.write_text('[{"run": 12, "path": "train.log", "append": 10, "every_s": 0.01}]')
    with serving("--no-sample", "--live", str(script)) as emulator:
        sizes, end = {0}, time.monotonic() + DEADLINE_S
        while len(sizes) < 3:
            assert time.monotonic() < end
            (row,) = emulator.client.get(f"{API}/runs/12/artifacts").json()["data"]["attributes"]["files"]
            sizes.add(row["file_size"])
        assert all(size % 10 == 0 for size in sizes)


@pytest.mark.parametrize("script", [None, "[", '[{"run": 12, "path": "a", "append": "x", "every": 1}]'])
def test_a_wrong_live_script_is_an_error_of_one_line(tmp_path: Path, script: str | None) -> None:
    """A script that is missing, no JSON, or has a field that there is not: exit code 2, and a sentence."""
    path = tmp_path / "live.json"
    if script is not None:
        path.write_text(script)
    done = subprocess.run(
        [*COMMAND, "--live", str(path)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"cannot read the live script {path}" in done.stderr
