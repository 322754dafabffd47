"""An emulator behind a port: what `python -m artifactfs.emulator` and `artifactfs serve` run.

Owns the life of the server: bind, print the address, serve, end. It binds first: a reader of the line can connect.

Hard: uvicorn re-raises the signal that ended it, and waits for stalled answers. Here a signal is an ordinary end (exit
code 0), and what is in flight is dropped.
"""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import uvicorn

from artifactfs.emulator.app import create_app
from artifactfs.emulator.disk import Disk
from artifactfs.emulator.lab_state import Keys
from artifactfs.emulator.live import Live
from artifactfs.emulator.model import Lab
from artifactfs.emulator.sample import sample_lab
from artifactfs.emulator.switches import Switches
from artifactfs.emulator.wire import WireProtocol

HEADER_BYTES = 256 << 10  # of a request: 40 levels of 255 bytes, percent-encoded, are 30 KiB, beyond h11's 16 KiB
KEEP_ALIVE_S = 75  # as a load balancer has it; uvicorn's 5 s would race with a client that pauses
BACKLOG = 2048  # connections; uvicorn's own


class ServeError(Exception):
    """The emulator cannot start: the sentence is for the user."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is served where. `sample` None: only without a directory. `port` 0: a free one. `live`: a script's path."""

    directory: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    switches: Mapping[str, object] = field(default_factory=dict)
    keys: Keys = field(default_factory=Keys)
    sample: bool | None = None
    live: str | None = None
    until_stdin_closes: bool = False


def build_lab(directory: str | None, sample: bool | None) -> Lab:
    """Return the lab that the options ask for. Raises ServeError if there is no such directory."""
    if directory is not None and not os.path.isdir(directory):
        raise ServeError(f"{directory} is not a directory")
    lab = sample_lab() if sample or (sample is None and directory is None) else Lab()
    if directory is not None:
        lab.source = Disk(directory)
    return lab


def _live_script(path: str | None, start_s: float) -> Live:
    """Return the live script in a file, an empty one without a file. Raises ServeError."""
    if path is None:
        return Live()
    try:
        with open(path, "rb") as file:
            return Live.parse(json.load(file), start_s)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise ServeError(f"cannot read the live script {path}: {reason}") from problem


def print_line(told: Mapping[str, str]) -> None:
    """Print where the emulator is as one line of JSON, at once."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def serve_forever(options: Options, announce: Callable[[Mapping[str, str]], None] = print_line) -> None:
    """Serve until SIGTERM, SIGINT or, if so asked, the end of standard input.

    `announce` is called once it can be reached, with `url`, `other_url`, `api_key`, `app_key` and `access_token`; the
    other URL leads to the same server by another port: another origin, where redirect=other goes. Must run in the main
    thread. Raises ServeError, and SwitchError for the switches.
    """
    switches = Switches().changed(options.switches)
    lab = build_lab(options.directory, options.sample)
    live = _live_script(options.live, lab.clock())
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_listen(options.host, port)) for port in (options.port, 0)]
        url, other_url = map(_url, listeners)
        if not switches.redirect_to:
            switches = dataclasses.replace(switches, redirect_to=other_url)
        app = create_app(lab, switches, keys=options.keys)
        app.state.emulator.live = live
        server = _Server(_config(app))
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn takes this handler's place, and at its end raises the signal again: then it comes to nothing.
            signal.signal(number, server.handle_exit)
        if options.until_stdin_closes:
            threading.Thread(target=_end_with_stdin, args=[server], daemon=True).start()
        announce({"url": url, "other_url": other_url, **dataclasses.asdict(options.keys)})
        server.run(sockets=listeners)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named asyncio sets TCP_NODELAY on what it accepts. Without, answers wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError, TypeError) as problem:  # TypeError: a host that no name server could be asked for
        listener.close()
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ServeError(f"cannot listen on {host} port {port}: {reason}") from problem
    return listener


def _url(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn types ASGI its own way
        loop="asyncio",
        http=WireProtocol,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,  # the gate writes it
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=HEADER_BYTES,
        backlog=BACKLOG,
    )


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End at once: answers in flight are cancelled, which is no error worth a traceback."""
        logging.getLogger("uvicorn.error").disabled = True
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await super().shutdown(sockets)


def _end_with_stdin(server: uvicorn.Server) -> None:
    # os.read and not sys.stdin: a daemon thread inside a buffered read would trip the interpreter's end.
    with contextlib.suppress(OSError):  # No standard input at all is its end, too.
        while os.read(0, 4096):
            continue
    server.should_exit = True
