"""Fail unless every test of a JUnit report ran: a skip, or a failure that was expected, is a test that tells nothing.

For .ci/run: python .ci/all_ran.py REPORT
"""

import sys
import xml.etree.ElementTree as ElementTree


def main(report: str) -> int:
    """Print what did not run. Returns the exit code: 0 if all did, and there were some."""
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - pytest's own file
    skipped = [(case, found) for case in cases if (found := case.find("skipped")) is not None]
    for case, found in skipped:
        why = found.get("message") or found.get("type")
        sys.stderr.write(f"did not run: {case.get('classname')}::{case.get('name')}: {why}\n")
    if not cases:
        sys.stderr.write("no test ran at all\n")
    return 1 if skipped or not cases else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
