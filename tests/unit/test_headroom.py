"""artifactfs.util.headroom, in a process of its own whose memory is limited for real."""

import subprocess
import sys

_LIMITED = """
import contextlib, resource, threading
from artifactfs.util import headroom

def limit(more):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY if more is None else now + more, -1))

def start():
    try:
        thread = threading.Thread(target=print, args=("started",))
        thread.start()
        thread.join()
    except RuntimeError as error:
        print(error)

headroom.refuse_threads()
headroom.is_short()
start()
print(headroom.is_short(), headroom.for_worker(), headroom.for_thread())
limit(0)
kept = []
with contextlib.suppress(MemoryError):
    while True:
        kept.append(bytearray(1 << 18))
# The first look gives the reserve up; what it was can be had then.
print(headroom.is_short(), headroom.for_worker(), headroom.for_thread())
kept.append(bytearray(1 << 20))
start()
limit(None)
kept.clear()
print(headroom.is_short(), headroom.for_worker(), headroom.for_thread())
start()
"""


def test_a_process_that_runs_out_of_memory() -> None:
    """5.5: the reserve is given up when there is no more, and taken again; a thread without memory is refused."""
    done = subprocess.run([sys.executable, "-c", _LIMITED], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == [
        "started",
        "False True True",
        "True True False",
        "can't start new thread: there is no memory for it",
        "False True True",
        "started",
    ]
