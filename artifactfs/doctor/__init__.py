"""`artifactfs doctor`: checks whether a mount would work here, and reports each problem with its fix.

Owns the checks that `mount` does not make, and the report of those that it makes (mount/checks.py); not their output
(cli/doctor.py). The doctor changes nothing. A check that fails or hangs does not stop the others. Hard: a path of the
user may lie on a file system that no longer answers, and a process that touches it may not react to any signal. So a
child process touches such paths, and is left behind if it hangs (isolated.py).
"""

from artifactfs.doctor.findings import Finding, Mark
from artifactfs.doctor.runner import Request, examine

__all__ = ["Finding", "Mark", "Request", "examine"]
