"""artifactfs.util.tools: what a program prints, and a sentence for each way to fail."""

import pytest

from artifactfs.util.tools import ToolFailed, output_of


def test_output() -> None:
    """Standard output alone, exact; standard input is at its end."""
    assert output_of("sh", "-c", "cat; echo unheard >&2; printf ' a\\n\\n'", limit_s=60) == " a\n\n"


@pytest.mark.parametrize(
    ("command", "fact", "is_missing"),
    [
        (("sh", "-c", "printf 'not\\n so' >&2; exit 3"), "sh failed: not so", False),
        (("sh", "-c", "exit 3"), "sh failed: exit code 3", False),
        (("no-such-program",), "no-such-program is missing", True),
        (("/etc/passwd",), "/etc/passwd cannot be run: Permission denied", False),
        (("sleep", "600"), "sleep did not end within 0.1 s", False),
    ],
)
def test_failures(command: tuple[str, ...], fact: str, is_missing: bool) -> None:
    """One line, whatever the program said."""
    with pytest.raises(ToolFailed) as caught:
        output_of(*command, limit_s=0.1 if command[0] == "sleep" else 60)
    assert (str(caught.value), caught.value.is_missing) == (fact, is_missing)
