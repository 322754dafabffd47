"""Completion for bash, zsh and fish: `artifactfs completion SHELL` prints the script, click has most of it.

Owns what values are offered where click knows only "some text": live mounts, profiles, files, words. It goes by the
names and metavars of parameters, so that a command has completion without saying so.

What is hard: it runs at a key press. So it never raises, touches no mount (a wedged one would hang the shell: the mount
table is read, not the mount), and writes nothing but its answer.
"""

import os
from collections.abc import Callable, Iterable
from typing import TypeAlias

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.errors import ArtifactfsError, ExitCode, UserError
from artifactfs.mount import control_client, mount_table
from artifactfs.util.escaping import one_line

# As text: click 8.2's is no generic yet.
_Item: TypeAlias = "CompletionItem[str]"
_Offer: TypeAlias = "Callable[[click.Context, str], Iterable[_Item]]"

_VARIABLE = "_ARTIFACTFS_COMPLETE"
# Datadog's sites ("Getting started with sites" of its documentation).
_SITES = (
    "datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu", "ap1.datadoghq.com", "ap2.datadoghq.com",
    "ddog-gov.com",
)  # fmt: skip
# The commands whose MOUNTPOINT is a directory still to be mounted at; that of others is mounted.
_MOUNTING = frozenset({"mount", "demo", "install"})


class Bash(BashComplete):
    """click's completion, with values quoted for the shell, and without messages."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value
    COMPREPLY=()
    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    while IFS= read -r completion; do
        type=${completion%%%%,*} value=${completion#*,}
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                case $value in
                    "~/"*) printf -v value '%%q' "${value:2}"; COMPREPLY+=("~/$value") ;;
                    *) printf -v value '%%q' "$value"; COMPREPLY+=("$value") ;;
                esac ;;
        esac
    done <<<"$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        # Not click's own, which runs a bash to see how old it is: the script is as good for another machine.
        return self.source_template % self.source_vars()


_SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", required=False)
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print the completion script for SHELL: bash, zsh or fish.

    bash: eval "$(artifactfs completion bash)" in ~/.bashrc. zsh: the same in ~/.zshrc, after compinit. fish: artifactfs
    completion fish > ~/.config/fish/completions/artifactfs.fish
    """
    if shell not in _SHELLS:
        said = "there is no shell to complete for" if shell is None else f"there is no completion for {shell!r}"
        raise UserError(ExitCode.USAGE, f"{said}: give one of {', '.join(_SHELLS)}")
    script = _SHELLS[shell](context.find_root().command, {}, "artifactfs", _VARIABLE).source()
    output.exact(script.removesuffix("\n"))


class _Offering(click.types.StringParamType):
    """Text, for which `offer(context, incomplete)` knows values."""

    def __init__(self, offer: _Offer) -> None:
        self._offer = offer

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - the signature is click's
        incomplete: str,
    ) -> "list[_Item]":
        return list(self._offer(ctx, incomplete))


def teach(command: click.Command) -> None:
    """Have a command, and all below it, offer values."""
    add_completion_class(Bash)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            teach(below)
    for param in command.params:
        if param.type is click.STRING:
            param.type = _Offering(_offer_for(command.name or "", param))


def _offer_for(command: str, param: click.Parameter) -> _Offer:
    metavar = param.metavar or ""
    if param.name == "mountpoint":
        return _shells_own("dir") if command in _MOUNTING else _live_mounts
    if param.name == "profile":
        return _profiles
    if param.name == "shell":
        return _words(_SHELLS)
    if metavar == "SITE":
        return _words(_SITES)
    if "|" in metavar:
        return _words(metavar.split("|"))
    if metavar.strip("[]") == "DIR":
        return _shells_own("dir")
    if metavar == "FILE" or (isinstance(param, click.Argument) and (param.name or "").startswith("path")):
        return _shells_own("file")
    return _words(())


def _shells_own(kind: str) -> _Offer:
    # The shell itself looks for files and directories.
    return lambda _, incomplete: [CompletionItem(incomplete, type=kind)]


def _words(words: Iterable[str]) -> _Offer:
    return lambda _, incomplete: [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _profiles(context: click.Context, incomplete: str) -> "Iterable[_Item]":
    try:
        known = settings.find_profiles(context.params.get("config_file"))
    except ArtifactfsError:
        # A config file with a mistake in it: the command will say so, a key press does not.
        return []
    return [CompletionItem(name) for name in known if name.startswith(incomplete) and one_line(name) == name]


def _live_mounts(_context: click.Context, incomplete: str) -> "Iterable[_Item]":
    """Offer the mounts of this user, to root all of them, in the form of the word: absolute, from home, or relative."""
    try:
        # Root may end every mount; other users only their own.
        mounts = mount_table.mounts() if os.geteuid() == 0 else control_client.my_mounts()
        points = [mount.point for mount in mounts if mount.is_ours]
        here = os.getcwd()
    except OSError:
        return []
    home = os.path.expanduser("~")
    found = []
    for point in points:
        forms = [point]
        if incomplete.startswith("~"):
            forms = ["~" + point.removeprefix(home)] if point.startswith(home + "/") else []
        elif incomplete and not incomplete.startswith("/"):
            forms = [os.path.relpath(point, here)]
        found += [form for form in forms if form.startswith(incomplete) and one_line(form) == form]
    return [CompletionItem(form) for form in found]
