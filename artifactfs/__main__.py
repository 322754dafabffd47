"""The program `artifactfs`, also as `python -m artifactfs`."""

import signal

from artifactfs.util import garbage


def main() -> None:
    """Run the command line; never returns."""
    garbage.collect_rarely()
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        # Ctrl-C ends the imports, which is the code of an interrupted command, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from artifactfs import cli

    signal.signal(signal.SIGINT, handler)
    cli.main()


if __name__ == "__main__":
    main()
