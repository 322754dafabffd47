"""python -m artifactfs.emulator: a Model Lab on loopback."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from artifactfs.emulator.lab_state import Keys
from artifactfs.emulator.serve import Options, ServeError, serve_forever
from artifactfs.emulator.switches import SwitchError, assignment


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(_shown(message))


def _shown(text: object) -> str:
    """Return a text for a terminal: it may repeat an argument, which may hold what a terminal obeys."""
    return str(text).encode("unicode_escape").decode("ascii")


def _parser() -> argparse.ArgumentParser:
    defaults = Keys()
    parser = _Parser(prog="python -m artifactfs.emulator", description="A Datadog Model Lab on loopback.")
    parser.add_argument("directory", metavar="DIR", nargs="?", help="serve DIR/<run id>/... (default: a sample)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--switch", metavar="NAME=VALUE", action="append", default=[], help="see emulator/switches.py")
    parser.add_argument("--live", metavar="FILE", help="a live script, in JSON: see emulator/live.py")
    parser.add_argument("--api-key", default=defaults.api_key)
    parser.add_argument("--app-key", default=defaults.app_key)
    parser.add_argument("--access-token", default=defaults.access_token)
    parser.add_argument("--sample", action=argparse.BooleanOptionalAction, help="default: only without DIR")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the server. Returns the exit code: 0, or 2 if the server could not start."""
    given = _parser().parse_args(arguments)
    try:
        options = Options(
            directory=given.directory,
            host=given.host,
            port=given.port,
            switches=dict(map(assignment, given.switch)),
            keys=Keys(api_key=given.api_key, app_key=given.app_key, access_token=given.access_token),
            sample=given.sample,
            live=given.live,
            until_stdin_closes=given.until_stdin_closes,
        )
        serve_forever(options)
    except (ServeError, SwitchError) as problem:
        sys.stderr.write(f"artifactfs emulator: {_shown(problem)}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
