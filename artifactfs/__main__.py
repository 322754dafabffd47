"""The program `artifactfs`, also as `python -m artifactfs`."""

from artifactfs.util import garbage


def main() -> None:
    """Run the command line; never returns."""
    garbage.collect_rarely()
    from artifactfs import cli

    cli.main()


if __name__ == "__main__":
    main()
