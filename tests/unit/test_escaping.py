"""artifactfs.util.escaping: text of others in one line, for eyes and for shells."""

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.util.escaping import one_line, shell_word
from tests.nasty import NASTY, NOT_UTF8, obeyed

SHELLS = [name for name in ("bash", "zsh", "ksh", "busybox") if shutil.which(name)]


@pytest.mark.parametrize("text", [*NASTY.values(), NOT_UTF8], ids=[*NASTY, "no UTF-8"])
def test_nothing_is_obeyed(text: str) -> None:
    """6.5: of each kind nothing is left, and the original follows from the escaped text."""
    shown = one_line(f"a{text}z")
    assert obeyed(shown) == set()
    assert "\n" not in shown
    assert shown.encode("ascii", "backslashreplace").decode("unicode_escape") == f"a{text}z"
    assert one_line(shown) == shown


@pytest.mark.parametrize(
    "text", ["", "späth ✓", "日本語.txt", "שלום", "a\\x1b", "'\"`$;|&", "👩🏽", "e\u0301", "x" * 300], ids=ascii
)
def test_what_can_be_seen_stays(text: str) -> None:
    """Letters of any writing, marks, emoji, quotes and backslashes are shown as they are."""
    assert one_line(text) == text


@given(st.text())
def test_any_text_is_one_line(text: str) -> None:
    """Any text is printable afterwards, on one line, and escaped once and for all."""
    shown = one_line(text)
    assert shown.isprintable()
    assert obeyed(shown) == set()
    assert one_line(shown) == shown


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_a_word_back(shell: str) -> None:
    """6.5: a command that is to be pasted names the very path, whatever is in it, and is nothing that is escaped."""
    words = [*NASTY.values(), NOT_UTF8, "", "a b", "it's", "\\", "\x1b1", "'\x1b\\'7", "$x\x1b`id`", "-x\x7f"]
    typed = [shell_word(word) for word in words]
    assert [one_line(word) for word in typed] == typed
    command = [shell, "sh", "-c"] if shell == "busybox" else [shell, "-c"]
    # The script by way of an argument, in bytes: as pasted.
    done = subprocess.run([*command, f"printf '%s\\0' {' '.join(typed)}"], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


def test_a_plain_word_is_typed_plainly() -> None:
    """Where nothing is to be escaped it is what every shell reads."""
    assert [shell_word(word) for word in ("/mnt/x", "a b", "日")] == ["/mnt/x", "'a b'", "'日'"]
