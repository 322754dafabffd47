"""What a program shows, in its own words: its accessibility tree (AT-SPI), printed as JSON. What is in it is on the
screen, and what is not cannot be in it; it takes no guess at pixels.

Run by the system's Python, which has `gi`: `python3 seen.py APPLICATION`. Imports nothing of ours.
"""

import json
import sys
from typing import Any

# Deeper than any program's tree: ends a loop in one that is broken.
_DEPTH = 40


def main(application: str) -> None:
    """Print a list of the application's windows."""
    import gi  # type: ignore[import-not-found,import-untyped,unused-ignore]

    gi.require_version("Atspi", "2.0")
    from gi.repository import Atspi, GLib  # type: ignore[import-not-found,import-untyped,unused-ignore]

    # Each of these is a call to the program: only where the answer is needed.
    def text_of(node: Any, role: str) -> str | None:
        return Atspi.Text.get_text(node, 0, -1) if role == "text" else None

    def place_of(node: Any, role: str) -> list[int]:
        if role != "table cell":
            return []
        extents = Atspi.Component.get_extents(node, Atspi.CoordType.SCREEN)
        return [extents.x, extents.y, extents.width, extents.height]

    def look(node: Any, depth: int = 0) -> dict[str, Any]:
        children = [node.get_child_at_index(index) for index in range(node.get_child_count())] if depth < _DEPTH else []
        role = node.get_role_name()
        return {
            "role": role,
            "name": node.get_name() or "",
            "text": text_of(node, role),
            "place": place_of(node, role),
            "children": [look(child, depth + 1) for child in children if child is not None],
        }

    found = []
    try:
        desktop = Atspi.get_desktop(0)
        for index in range(desktop.get_child_count()):
            program = desktop.get_child_at_index(index)
            if program is not None and program.get_name() == application:
                found += look(program)["children"]
    except GLib.Error as error:
        # A program that ends, a window that closes, or a row that is replaced, while it is looked at: the next look is
        # whole.
        sys.stdout.write("null\n")
        sys.stderr.write(f"{error}\n")
        return
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
