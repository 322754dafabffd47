"""Starts a mount for a command, of a service or of the sample: the checks, and the process that serves it."""

import dataclasses
import os
import sys
from collections.abc import Callable

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.logs import LogDestination
from artifactfs.mount import checks, daemon
from artifactfs.settings import KeySource, Secret, Settings
from artifactfs.util.escaping import shell_word


def _serve(loaded: Settings, point: str, target: LogDestination, parent: daemon.PipeToParent | None) -> int:
    """Serve a mount until its end; in the foreground where no parent waits for it."""
    # After the fork: this imports trio, httpx and pyfuse3.
    from artifactfs.mount import session
    from artifactfs.mount.sd_notify import Notifier

    # Not in the background: systemd accepts notifications only from the process that it has started.
    address = settings.take_notify_socket()
    notify = Notifier(None if parent else address, parent)
    return session.run(loaded, point, target=target, notify=notify)


def start(
    mountpoint: str,
    loaded: Settings,
    foreground: bool,
    serving: Callable[[Settings, str, LogDestination, daemon.PipeToParent | None], int] = _serve,
    program: str = "artifactfs",
) -> None:
    """Make the checks, and mount; in the background, return when the mount is ready."""
    settings.drop_keys()
    # The files and directories of a mount (log, register, cache) are private.
    os.umask(0o077)
    checks.memory()
    checks.fuse(loaded)
    point, warning = checks.mountpoint(mountpoint)
    checks.cache_place(loaded, point)
    for notice in filter(None, (*loaded.warnings, warning, checks.cache(loaded))):
        output.warn(str(notice), program)
    target = settings.log_target(loaded, point, foreground=foreground)
    if target.file is not None:
        checks.log_file(target.file, point)
    if foreground:
        sys.exit(serving(loaded, point, target, None))

    def on_waiting(reason: str) -> None:
        output.complain(f"{reason}; waiting until it answers, Ctrl-C gives up", program)

    daemon.start(
        lambda parent: serving(loaded, point, target, parent),
        target.place,
        on_waiting=on_waiting,
        on_warning=lambda text: output.warn(text, program),
    )


def start_sample(mountpoint: str, loaded: Settings, *, foreground: bool) -> None:
    """Mount the emulator's sample, and make a missing mount point for as long as it is mounted."""
    point = checks.resolve(mountpoint)
    fix = "give a place of your own, as in `artifactfs demo ~/demo-mount`"
    with checks.made_directory(point, fix) as created:

        def serve_sample(chosen: Settings, at: str, target: LogDestination, parent: daemon.PipeToParent | None) -> int:
            try:
                return _serve_sample(chosen, at, target, parent)
            finally:
                if created:
                    checks.remove_if_empty(at)

        sample = f"the sample is at {point}: try `ls {shell_word(f'{point}/runs/70158')}`"
        if foreground:
            # `start` checks again; the line about the sample must not come before an error.
            checks.fuse(loaded)
            checks.mountpoint(point)
            output.hint(f"{sample}; Ctrl-C ends it")
        start(point, loaded, foreground, serve_sample)
        output.hint(f"{sample}; `artifactfs umount {shell_word(point)}` ends it")


def _serve_sample(chosen: Settings, at: str, target: LogDestination, parent: daemon.PipeToParent | None) -> int:
    from artifactfs.mount import demo_server

    with demo_server.emulator() as lab:
        with_keys = dataclasses.replace(
            chosen,
            api_url=lab.url,
            origin=lab.url.partition("://")[2],
            api_key=Secret(lab.api_key),
            app_key=Secret(lab.app_key),
            access_token=None,
            # Not those of the config file: the sample's keys do not change.
            keys=KeySource(),
            account=None,
            # Its service is there.
            offline="never",
        )
        return _serve(with_keys, at, target, parent)
