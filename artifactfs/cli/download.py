"""`artifactfs download`: copies runs, directories and files to the local disk."""

import click

from artifactfs.cli import output
from artifactfs.cli.completion import DIRECTORY, FILE
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import load_for_service, service_options
from artifactfs.settings import Arguments
from artifactfs.util.humanize import counted, format_size


@command()
@click.argument("paths", metavar="PATH…", nargs=-1, type=FILE)
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at once.")
@service_options
def download(paths: tuple[str, ...], directory: str, jobs: int, given: Arguments) -> None:
    """Download runs, directories and files to DIR, without a mount, and without FUSE.

    PATH is a run's number (70158), PROJECT/RUN by their names, or a path below one (70158/checkpoints); or a path in a
    mount, through which it is read then. It becomes DIR/NAME, as with cp -r.

    What is there already, with the same size and time, is skipped. After an interruption, call it again: it goes on
    where it stopped.
    """
    if not paths:
        raise click.UsageError("give PATH… and, as the last argument, DIR: where the copies go")
    if "" in (*paths, directory):
        raise click.UsageError("'' is not a path")
    from artifactfs.download import source_files, transfers
    from artifactfs.mount import control_client

    output.warn_of_notices()
    paths = tuple(map(control_client.run_in_mount, paths))
    all_mounted = {source_files.is_in_a_mount(path) for path in paths} == {True}
    loaded = None if all_mounted else load_for_service(given)
    done = transfers.run(
        paths, directory, loaded, jobs, lambda count, size: output.progress(counted(count, "file"), size)
    )
    present = f"; {counted(done.present, 'file')} already there" if done.present else ""
    if done.files or done.present or not done.failures:
        output.say(f"{counted(done.files, 'file')}, {format_size(done.received_bytes)}{present}")
    output.give_up_on(done.failures, "could not be downloaded")
