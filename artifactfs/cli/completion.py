"""Completion for bash, zsh and fish: the types of parameters that offer values, and `artifactfs completion SHELL`.

Owns the values that click does not know: live mounts, profiles, words of a setting. Hard: completion runs at a key
press. So it never raises, touches no mount (a wedged one would hang the shell: it reads the mount table), and prints
only its answer.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.help_layout import command
from artifactfs.errors import ArtifactfsError
from artifactfs.util.escaping import one_line

# As text: click 8.2's is no generic yet.
_Items: TypeAlias = "list[CompletionItem[str]]"

_VARIABLE = "_ARTIFACTFS_COMPLETE"


class Offered(click.types.StringParamType):
    """Text for which `words(context, incomplete)` returns the possible values; those that do not match are left out."""

    def __init__(self, words: Callable[[click.Context, str], Iterable[str]]) -> None:
        self._words = words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> _Items:  # noqa: ARG002 - click's
        words = self._words(ctx, incomplete)
        return [CompletionItem(word) for word in words if word.startswith(incomplete) and one_line(word) == word]


class _UntouchedPath(click.Path):
    """A path that is not looked at: access to a wedged mount never ends. The shell completes it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002 - click's
        return value


def one_of(*words: str) -> Offered:
    """Return the type of a setting with known values. The settings check them, as they do for other sources."""
    return Offered(lambda _context, _incomplete: words)


def _profiles(context: click.Context, _incomplete: str) -> Iterable[str]:
    try:
        return settings.find_profiles(context.params.get("config_file"))
    except ArtifactfsError:
        # The command itself reports the mistake in the config file.
        return ()


def _live_mounts(_context: click.Context, incomplete: str) -> Iterable[str]:
    """Return this user's mounts, or all for root, as the word begins: absolute, from home, or relative."""
    from artifactfs.mount import control_client, mount_table

    try:
        # Root may end every mount; other users only their own.
        mounts = mount_table.mounts() if os.geteuid() == 0 else control_client.my_mounts()
        points = [mount.point for mount in mounts if mount.fstype == mount_table.FUSE_TYPE]
        here = os.getcwd()
    except OSError:
        return []
    home = os.path.expanduser("~")
    if incomplete.startswith("~"):
        return ["~" + point.removeprefix(home) for point in points if point.startswith(home + "/")]
    is_relative = incomplete and not incomplete.startswith("/")
    return [os.path.relpath(point, here) for point in points] if is_relative else points


DIRECTORY = _UntouchedPath(file_okay=False)
FILE = _UntouchedPath()
LIVE_MOUNT = Offered(_live_mounts)
PROFILE_NAME = Offered(_profiles)


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
        # click's own runs a bash to check its version, but the script may be for another machine.
        return self.source_template % self.source_vars()


add_completion_class(Bash)


@command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish.

    bash: eval "$(artifactfs completion bash)" in ~/.bashrc. zsh: the same in ~/.zshrc, after compinit. fish: artifactfs
    completion fish > ~/.config/fish/completions/artifactfs.fish
    """
    if (found := get_completion_class(shell)) is not None:
        output.exact(found(context.find_root().command, {}, "artifactfs", _VARIABLE).source().removesuffix("\n"))
