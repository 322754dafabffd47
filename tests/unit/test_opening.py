"""artifactfs.desktop.opening: what a window is given to show."""

import os
from pathlib import Path

import pytest

from artifactfs.desktop import opening
from artifactfs.util.escaping import one_line
from tests.nasty import NASTY, NOT_UTF8

MESSAGE = f"cannot create /a\\b/{''.join(NASTY.values())}{NOT_UTF8}: <b>no</b>"


@pytest.mark.parametrize("program", ["zenity", "kdialog", "notify-send", "xmessage"])
def test_a_window_shows_what_a_terminal_would(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.5: a message is escaped in a window, too, and programs that undo escapes are kept from it."""
    said = tmp_path / "said"
    (tmp_path / program).write_text(f"#!/bin/sh\nfor each do :; done\nprintf '%s' \"$each\" >'{said}'\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(os, "environ", {**os.environ, "PATH": str(tmp_path)})
    opening.tell(MESSAGE)
    shown = said.read_text(encoding="utf-8").removeprefix("--text=")
    if program != "xmessage":
        shown = shown.replace("\\\\", "\\")
    assert shown.replace("&lt;", "<").replace("&gt;", ">") == one_line(MESSAGE)
