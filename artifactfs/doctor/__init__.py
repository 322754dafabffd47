"""`artifactfs doctor`: whether a mount would work here, what stands in its way, and how to fix it.

Owns the checks, not how they are printed (cli/doctor.py). It changes nothing, and it goes on: a check that fails, or
breaks, or hangs, costs itself. What is hard is the last: a path that a user names may lie on a file system that no
longer answers, and a process that touches it may be beyond every signal. So whatever touches such a path is done by a
child that is left behind if it must be (apart.py).

    findings.py   what a check found, in a form for people and programs
    machine.py    what is read of this machine; tests have one of their own
    apart.py      a function in a child process, for so long and no longer
    system.py     Python, FUSE, limits, other mounts: what the machine has to offer
    fusermount.py what fusermount3 refuses to an ordinary user
    places.py     mount point, cache, log, config file: what is the user's
    setup.py      the settings, where keys come from, what of the environment is not read
    service.py    the few requests, and the time that they may take
    grants.py     what the answers say of the service
"""

from artifactfs.doctor.findings import Finding, Mark, Report
from artifactfs.doctor.runner import Request, examine

__all__ = ["Finding", "Mark", "Report", "Request", "examine"]
