"""`artifactfs` without the third of a second in which Python starts and imports: a fork of a process that has.

Hundreds of mounts are started only to look at them. What is started so is a process of its own with the arguments, the
environment and the descriptors of the real one, in the places where the kernel shows them; only its imports are done.
Tests of the start itself run the command (`Shell.cli`), and with ARTIFACTFS_UNFORKED=1 all tests do.
"""

import atexit
import contextlib
import ctypes
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence

import artifactfs.__main__

# Room for the environment and for the arguments of a mount, in place of those of the process that is forked.
_ENVIRON_BYTES, _ARGUMENTS_BYTES = 32 << 10, 8 << 10
_MESSAGE_BYTES = 128 << 10
# What Python or libc reads once, when a process starts: it must be that of the process that is forked.
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "TZ")
# prctl(2)
_PR_SET_NAME = 15


class Starter:
    """A process that has done the imports. `busy`: while it runs a command; it runs one at a time."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.busy = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), " " * _ARGUMENTS_BYTES],
                env={"PATH": os.environ.get("PATH", os.defpath), **env, "PADDING": " " * _ENVIRON_BYTES},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Pipes as those that it gets later: Python has asked whether one can seek in them.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )

    def run(self, command: Sequence[str], env: Mapping[str, str], limit_s: float) -> tuple[int, bytes, bytes]:
        """Run a command to its end; returns its code and what it printed. One that hangs is killed, and fails."""
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            mask = next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
        told = json.dumps([list(command), dict(env), os.getcwd(), mask]).encode()
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        try:
            with open(os.devnull, "rb") as null, os.fdopen(out_end), os.fdopen(err_end):
                socket.send_fds(self._socket, [told], [null.fileno(), out_end, err_end])
            return self._outcome(out, err, limit_s)
        except BaseException:
            _starter.cache_clear()  # the next one is another
            raise
        finally:
            os.close(out)
            os.close(err)

    def _outcome(self, out: int, err: int, limit_s: float) -> tuple[int, bytes, bytes]:
        pid = int(self._socket.recv(_MESSAGE_BYTES))
        printed = {out: b"", err: b""}
        waiting, end = [out, err, self._socket.fileno()], time.monotonic() + limit_s
        while waiting:
            ready, _, _ = select.select(waiting, [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.killpg(pid, signal.SIGKILL)
                raise AssertionError(f"hung for {limit_s:g} s: process {pid}")
            for each in ready:
                if each in printed and (piece := os.read(each, 1 << 16)):
                    printed[each] += piece
                else:
                    waiting.remove(each)
        return int(self._socket.recv(_MESSAGE_BYTES)), printed[out], printed[err]

    def close(self) -> None:
        self._socket.close()
        self._process.communicate()


@functools.cache
def _starter(env: tuple[tuple[str, str], ...]) -> Starter:
    made = Starter(dict(env))
    atexit.register(made.close)
    return made


def starter_for(command: Sequence[str], env: Mapping[str, str]) -> Starter | None:
    """Return the process to fork for a command with this environment; None where there is none."""
    words = sum(len(os.fsencode(word)) + 1 for word in (sys.executable, *command))
    pairs = sum(len(os.fsencode(name + value)) + 2 for name, value in env.items())
    if os.environ.get("ARTIFACTFS_UNFORKED") == "1" or words > _ARGUMENTS_BYTES or pairs > _ENVIRON_BYTES:
        return None
    return _starter(tuple(sorted((name, value) for name, value in env.items() if name.startswith(_AT_START))))


# --- in the process that is forked ------------------------------------------------------------------------


def _serve(control: socket.socket) -> None:
    """Fork for each message, until the other end is closed."""
    while True:
        told, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 3)
        if not told:
            return
        child = os.fork()
        if child == 0:
            command, env, directory, mask = json.loads(told)
            _become(command, env, directory, mask, descriptors)
        for each in descriptors:
            os.close(each)
        control.send(b"%d" % child)
        control.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _become(command: list[str], env: dict[str, str], directory: str, mask: int, descriptors: list[int]) -> None:
    """Be the command; never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, each in enumerate(descriptors):
            os.dup2(each, number)
        os.closerange(3, 1 << 10)
        os.chdir(directory)
        os.umask(mask)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, os.path.basename(command[0]).encode()[:15], 0, 0, 0)
        _show(command, env)
        code = _main(command)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        with contextlib.suppress(BrokenPipeError, ValueError):  # ValueError: taken apart by the command itself
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _main(command: list[str]) -> int:
    if command[1] == "-m":
        sys.argv = [command[2], *command[3:]]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        artifactfs.__main__.main()
    return 0


def _show(command: list[str], env: dict[str, str]) -> None:
    """Put arguments and environment where the kernel shows them, libc looks them up, and Python does."""
    with open("/proc/self/stat", "rb") as file:
        # proc(5): arg_start, arg_end, env_start, env_end.
        arguments, arguments_end, environ, environ_end = map(int, file.read().rpartition(b")")[2].split()[45:49])
    # Of a script the kernel shows the interpreter first.
    shown = command if command[1] == "-m" else [sys.executable, *command]
    words = b"".join(os.fsencode(word) + b"\0" for word in shown)
    pairs = [os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items()]
    ctypes.memset(arguments, 0, arguments_end - arguments)
    ctypes.memset(environ, 0, environ_end - environ)
    ctypes.memmove(arguments, words, len(words))
    places = (ctypes.c_void_p * (len(pairs) + 1))()
    at = environ
    for place, pair in enumerate(pairs):
        ctypes.memmove(at, pair, len(pair))
        places[place] = at
        at += len(pair)
    assert at <= environ_end
    ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value = ctypes.addressof(places)
    _show.places = places  # type: ignore[attr-defined]  # it lives as long as the process
    known = os.environ._data  # type: ignore[attr-defined]
    known.clear()
    known.update({os.fsencode(name): os.fsencode(value) for name, value in env.items()})


if __name__ == "__main__":
    # What mount, umount, refresh, info, doctor and download import.
    from artifactfs.cli import doctor, download, starting  # noqa: F401
    from artifactfs.doctor import examine  # noqa: F401
    from artifactfs.download import source_files, transfers  # noqa: F401
    from artifactfs.mount import session, unmount  # noqa: F401

    _serve(socket.socket(fileno=int(sys.argv[1])))
