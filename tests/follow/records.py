"""Lines that name their version and their number: what is missing, doubled or of another version shows."""

_LINE = "version %03d line %08d\n"
LINE_BYTES = len(_LINE % (0, 0))


def lines(first: int, end: int, version: int = 1) -> bytes:
    """Return the lines number `first` to `end`, excluded."""
    return "".join(_LINE % (version, number) for number in range(first, end)).encode()


def json_lines(first: int, end: int) -> bytes:
    """Return so many lines of JSON, each an object with its number as `step`."""
    return "".join(f'{{"step": {number}, "loss": {number / 1000}}}\n' for number in range(first, end)).encode()
