"""`artifactfs doctor`: checks whether a mount would work here, and reports each problem with its fix.

Owns the checks, not their output (cli/doctor.py). The doctor changes nothing. A check that fails or hangs does not stop
the others. Hard: a path of the user may lie on a file system that no longer answers, and a process that touches it
may not react to any signal. So a child process touches such paths, and is left behind if it hangs (isolated.py).

    findings.py          the result of a check: mark, fact and fix
    host.py              the state of this machine; tests pass their own
    isolated.py          a function in a child process, with a time limit
    host_checks.py       Python, FUSE, limits, other mounts
    fusermount.py        the conditions of fusermount3 for ordinary users
    path_checks.py       mount point, cache, log, config file
    settings_checks.py   the settings, the origin of the keys, ignored environment variables
    service.py           the requests, and their time limits
    service_findings.py  the findings about the service's answers
    runner.py            all checks in order
"""

from artifactfs.doctor.findings import Finding, Mark, Report
from artifactfs.doctor.runner import Request, examine

__all__ = ["Finding", "Mark", "Report", "Request", "examine"]
