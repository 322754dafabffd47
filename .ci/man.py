"""Build the man pages in docs/: `make man`.

artifactfs(1) is made from the texts that the program has: commands and their help, the table of settings, the exit
codes as docs/troubleshooting.md explains them. What is written here is only what has no other place: the order, files,
examples.
mount.artifactfs(8) is short, and is written here as a whole.

What is hard is roff: a backslash, a hyphen, a period at the beginning of a line each mean something to it.
"""

import inspect
import pathlib
import re
import sys
from collections.abc import Iterator

import click

from artifactfs import __version__
from artifactfs.cli import cli
from artifactfs.settings import BY_NAME, CONFIG, PROFILE, SETTINGS, Setting

ROOT = pathlib.Path(__file__).parents[1]
# A command that takes so many settings takes them all, or few: the page names those that it does not, or does.
_MANY = 8
# Commands in the order in which a new user meets them; others follow, by name.
_ORDER = (
    *(
        "login",
        "mount",
        "umount",
        "status",
        "info",
        "refresh",
        "doctor",
        "search",
        "download",
        "warm",
        "pin",
        "unpin",
        "pins",
        "cache",
        "config",
        "service",
    ),
    "desktop",
)

_DESCRIPTION = """\
*artifactfs* mounts the artifacts of Datadog Model Lab runs as a read-only directory. Checkpoints, metrics and
configurations of a run are then files: for `ls`, `find`, `cp`, a file manager, or any program that opens files.

*/runs/*_ID_ is a run's artifacts: any run by its number, listed or not. */names/*_PROJECT_*~*_ID_*/*_RUN_*~*_ID_ leads
to it by name, */projects/*_ID_*/*_ID_ by number. */.artifactfs* is not listed, and has what the mount says of itself.

A mount needs an API key and an application key of its site, from `DD_API_KEY` and `DD_APP_KEY`, from files, or from the
config file; never from the command line, which everybody on the machine can read. No root is needed.
"""

_FILES = (
    ("~/.config/artifactfs/config.toml", "The config file: settings by their names, with underscores. It counts "
     "only if it belongs to the user or to root, and nobody else can write to it. One that holds keys must be readable "
     "by its owner alone."),
    ("~/.cache/artifactfs", "What was fetched of contents, shared by all mounts of a user; pins.json lists what is "
     "pinned."),
    ("~/.local/state/artifactfs/log", "The log of each mount in the background, named after the mount point."),
    ("~/.config/systemd/user/artifactfs.service", "What `artifactfs service install` writes."),
    ("/etc/fuse.conf", "Without the line `user_allow_other`, *--allow-other* is root's."),
)  # fmt: skip

_ENVIRONMENT = (
    (("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"),
     "Where files go in place of ~/.config, ~/.cache, ~/.local/state and, for what `artifactfs desktop install` "
     "writes, ~/.local/share."),
    (("CREDENTIALS_DIRECTORY",), "Where systemd has put the keys of a service (LoadCredential=)."),
    (("NOTIFY_SOCKET",), "Where systemd is told that a mount in front is ready."),
    (("JOURNAL_STREAM",), "Whether standard error is systemd's journal, for *--log-to auto*."),
)  # fmt: skip

# Without `umask`, whoever is on the machine would be let in.
_FSTAB_OPTIONS = "_netdev,nofail,allow_other,uid=alice,gid=alice,umask=077,config=/etc/artifactfs/config.toml"

_EXAMPLES = (
    ("Mount, look, and end it:", "artifactfs login\n"
     "mkdir -p ~/model-lab\nartifactfs mount ~/model-lab\nls ~/model-lab/runs\nartifactfs umount ~/model-lab"),
    ("Without an account, a sample:", "artifactfs demo"),
    ("Find a run by name, and say what is known of it:", "ls -d ~/model-lab/names/*/*gpt2*\n"
     "artifactfs info ~/model-lab/names/*/*~70158"),
    ("Find runs by what they have in common, without a mount or in one:",
     "artifactfs search lora status:failed 'param:lr>0.001'\n"
     "ls ~/model-lab/names/ft-gpt2~2387/by/parameter/lr/0.001"),
    ("See how your mounts are; look anew at a run; fetch it ahead of time:", "artifactfs status\n"
     "artifactfs refresh ~/model-lab/runs/70158\nartifactfs warm ~/model-lab/runs/70158"),
    ("Keep a run on this disk:", "artifactfs pin ~/model-lab/runs/70158\nartifactfs pins"),
    ("Copies to the local disk, without a mount; called again, it goes on.",
     "artifactfs download 70158/checkpoints ~/checkpoints"),
    ("At boot, for one user, in /etc/fstab (see mount.artifactfs(8)):",
     f"eu  /mnt/lab  artifactfs  {_FSTAB_OPTIONS}  0  0"),
    ("At log-in, by systemd:", "artifactfs service install ~/model-lab"),
)  # fmt: skip

_MOUNT_PAGE = r"""
.SH NAME
mount.artifactfs \- mount Datadog Model Lab from fstab
.SH SYNOPSIS
.B mount \-t artifactfs
.RB [ \-o
.IR options ]
.I spec dir
.PP
.B mount.artifactfs
.I spec dir
.RB [ \-sfnvw "] [" \-o
.IR options ]
.SH DESCRIPTION
.B mount.artifactfs
is what
.BR mount (8),
and so
.BR fstab (5)
and systemd's mount units, call to mount with
.BR artifactfs (1).
It returns when the mount answers. mount(8) looks for it in
.IR /sbin :
.PP
.in +4n
.EX
sudo ln \-s "$(command \-v mount.artifactfs)" /usr/sbin/
.EE
.in
.PP
.I spec
is a profile of the config file, the URL of an API, or a Datadog site. Any other word is a label, unless there are
profiles. It is shown as the mount's source; a second
.B mount \-a
knows by it what is mounted.
.SH OPTIONS
Every setting of
.BR artifactfs (1)
that is an option there, as
.IB name = value\c
, with
.B config
and
.BR profile .
What mount(8) and fstab say to every file system is accepted:
.BR rw ,
.BR ro ,
.BR defaults ,
.BR user ,
.BR noauto ,
.B x\-*
and the like.
.TP
.BR _netdev ", " nofail
Where the service does not answer, go on trying: for about a minute, or for
.BI wait_max= time\c
, or with
.B wait
for ever. systemd gives a mount 90 seconds; longer takes
.BI x\-systemd.mount\-timeout= time\c
\&.
Rejected keys fail the mount at once.
.TP
.BR allow_other ", " uid=\fIuser\fR ", " gid=\fIgroup\fR ", " umask=\fImask\fR
What root mounts at boot is root's alone.
.B allow_other
lets everybody in; with
.B uid
and
.B umask=077
only the one it belongs to, and root.
.TP
.B \-s
Overlook unknown options.
.TP
.B \-f
Check everything on this side, and mount nothing.
.TP
.B \-v
Say what
.I spec
was taken for.
.SH EXIT STATUS
As of mount(8): 0 mounted, 1 wrong usage, 2 no FUSE on this machine, 4 a bug, 8 interrupted, 32 the mount failed.
.SH EXAMPLES
.EX
# /etc/fstab
eu            /mnt/lab       artifactfs  FSTAB_OPTIONS  0  0
datadoghq.eu  /home/bob/lab  artifactfs  noauto,user  0  0
.EE
.SH SEE ALSO
.BR artifactfs (1),
.BR mount (8),
.BR fstab (5),
.BR systemd.mount (5)
"""


def main() -> None:
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text, encoding="ascii")
        sys.stdout.write(f"docs/{name}\n")


def pages() -> dict[str, str]:
    """Return the pages by their file names."""
    return {
        "artifactfs.1": "\n".join(_page()) + "\n",
        "mount.artifactfs.8": _heading(8) + _MOUNT_PAGE.replace("FSTAB_OPTIONS", _FSTAB_OPTIONS),
    }


def _heading(section: int) -> str:
    title = "ARTIFACTFS" if section == 1 else "MOUNT.ARTIFACTFS"
    return f'.TH {title} {section} "" "artifactfs {__version__}"\n.nh\n.ad l'


def _page() -> Iterator[str]:
    yield _heading(1)
    yield ".SH NAME\nartifactfs \\- mount the run artifacts of Datadog Model Lab"
    yield ".SH SYNOPSIS"
    commands = list(_commands(cli, click.Context(cli, info_name="artifactfs")))
    for context in commands:
        yield _synopsis(context)
        yield ".br"
    yield ".SH DESCRIPTION"
    yield _paragraphs(_DESCRIPTION)
    yield ".SH OPTIONS"
    yield ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\n" + _text(
        "Show what a command is for, and its options; works with each."
    )
    yield ".TP\n\\fB\\-\\-help\\-all\\fR\nOf a command with many options: show the rare ones, too."
    yield ".TP\n\\fB\\-q\\fR, \\fB\\-\\-quiet\\fR\n" + _text(
        "Print no warnings, hints and progress bars; works with each command."
    )
    yield ".TP\n\\fB\\-V\\fR, \\fB\\-\\-version\\fR\nShow the version."
    yield ".SH COMMANDS"
    for context in commands:
        yield from _command(context)
    yield ".SH SETTINGS"
    yield _paragraphs(
        "Each is an option, a variable of the environment, *-o* _name_*=*_value_, and a key of the config file; the "
        "first of these that has it counts. Sizes as in *64MiB* or *10G*; times in seconds, or as in *90s*, *5m*, *1h*."
    )
    for setting in (CONFIG, PROFILE, *SETTINGS):
        yield from _setting(setting)
    yield ".SH EXIT STATUS"
    for code, meaning, remedy in exit_codes():
        yield f".TP\n.B {code}\n{_text(': '.join(filter(None, (meaning, remedy))))}"
    yield ".SH ENVIRONMENT"
    yield "The variables of the settings above, and:"
    for names, said in _ENVIRONMENT:
        spelled = ", ".join(f"\\fB{_plain(name)}\\fR" for name in names)
        yield f".TP\n{spelled}\n{_text(said)}"
    yield _paragraphs("*HTTP_PROXY* and friends are not read.")
    yield ".SH FILES"
    for path, said in _FILES:
        yield f".TP\n.I {_plain(path)}\n{_text(said)}"
    yield ".SH EXAMPLES"
    for said, typed in _EXAMPLES:
        yield f".PP\n{_text(said)}\n.PP\n.in +4n\n.EX\n{_lines(typed)}\n.EE\n.in"
    yield ".SH SEE ALSO\n.BR mount.artifactfs (8),\n.BR fusermount3 (1),\n.BR fstab (5),\n.BR systemd.unit (5)"


# --- commands -------------------------------------------------------------------------------------


def _commands(group: click.Group, above: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command, those of groups in place of the group."""
    names = group.list_commands(above)
    for name in sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        command = group.get_command(above, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=above)
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield context
            yield from _commands(command, context)
        else:
            yield context


def _synopsis(context: click.Context) -> str:
    # Options are named below; here the words that have to be there.
    pieces = [piece for piece in context.command.collect_usage_pieces(context) if not piece.startswith("[OPTIONS")]
    words = "".join(f" \\fI{_plain(piece.lower())}\\fR" for piece in pieces)
    return f"\\fB{_plain(context.command_path)}\\fR [\\fIoptions\\fR]{words}"


def _command(context: click.Context) -> Iterator[str]:
    yield f".SS {_synopsis(context)}"
    yield _help(context.command.help or "")
    names = {setting.name for setting in SETTINGS if setting.flag}
    names -= {param.name for param in context.command.params if _is_its_own(param)}
    options = [param for param in context.command.params if isinstance(param, click.Option) and not param.hidden]
    taken = names & {param.name for param in options}
    if len(taken) >= _MANY:
        left_out = [setting.option for setting in SETTINGS if setting.flag and setting.name not in taken]
        if len(left_out) > len(taken):
            some = _listed([setting.option for setting in SETTINGS if setting.name in taken])
            yield f".PP\nTakes, of the options of SETTINGS, {some}."
        else:
            yield f".PP\nTakes the options of SETTINGS{f', but for {_listed(left_out)}' if left_out else ''}."
        options = [param for param in options if param.name not in names | {"config_file", PROFILE.name}]
    for option in options:
        if option.name == "help":
            continue
        spelled = ", ".join(f"\\fB{_plain(name)}\\fR" for name in (*option.opts, *option.secondary_opts))
        metavar = "" if option.is_flag or option.count else f" \\fI{_plain(_metavar(option, context))}\\fR"
        default = option.get_help_extra(context).get("default")
        said = (option.help or "") + (f"  [{default.strip('()')}]" if default else "")
        yield f".TP\n{spelled}{metavar}\n{_text(said)}"


def _is_its_own(param: click.Parameter) -> bool:
    """Whether an option of a command has the name of a setting, and means something else."""
    return isinstance(param, click.Option) and param.name in BY_NAME and param.help != BY_NAME[param.name].help


def _metavar(option: click.Option, context: click.Context) -> str:
    return option.metavar or re.sub(r"INTEGER.*|TEXT", "N", option.make_metavar(context))


def _help(text: str) -> str:
    """Return a command's help; what follows a line with `\\b` alone keeps its lines, as click has it."""
    parts = []
    for part in inspect.cleandoc(text.partition("\f")[0]).split("\n\n"):
        if part.startswith("\b\n"):
            parts.append(f".PP\n.nf\n{_lines(part[2:])}\n.fi")
        else:
            parts.append(f".PP\n{_text(' '.join(part.split()))}")
    return "\n".join(parts)


# --- settings and exit codes ----------------------------------------------------------------------


def _setting(setting: Setting) -> Iterator[str]:
    if not setting.flag:
        yield f".TP\n.B {_plain(setting.name)}"
    else:
        short = "\\fB\\-v\\fR, " if setting.name == "verbose" else ""
        metavar = setting.metavar if setting.bare is None else None
        value = f" \\fI{_plain(metavar)}\\fR" if metavar is not None else ""
        yield f".TP\n{short}\\fB{_plain(setting.option)}\\fR{value}"
    yield _text(setting.help)
    only = "" if setting.flag else "Not an option. "
    yield f".br\n{only}" + ", ".join(f"\\fI{_plain(name)}\\fR" for name in setting.env)


def exit_codes() -> list[tuple[str, str, str]]:
    """Return code, meaning and remedy of each exit code, as docs/troubleshooting.md has them."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    start = page.index("| code | meaning | what to do |") + 2
    found = []
    for line in page[start:]:
        if not line.startswith("|"):
            break
        code, meaning, remedy = (cell.strip() for cell in line.strip("|").split("|"))
        found.append((code, meaning, remedy.replace("[containers.md](containers.md)", "docs/containers.md")))
    return found


def _listed(words: list[str]) -> str:
    spelled = [f"\\fB{_plain(word)}\\fR" for word in words]
    return spelled[0] if len(spelled) == 1 else f"{', '.join(spelled[:-1])} and {spelled[-1]}"


# --- roff -----------------------------------------------------------------------------------------


def _paragraphs(text: str) -> str:
    return "\n".join(f".PP\n{_text(' '.join(part.split()))}" for part in text.strip().split("\n\n"))


def _text(text: str) -> str:
    """Return a text in roff: `this` and *this* bold, _this_ in italics."""
    plain = re.sub(r"(?<![A-Za-z0-9_])_([a-z]+|[A-Z]+)_(?![A-Za-z0-9_])", r"\\fI\1\\fR", _plain(text))
    return re.sub(r"`([^`]+)`|\*([^*\s][^*]*)\*", lambda m: f"\\fB{m[1] or m[2]}\\fR", plain)


def _plain(text: str) -> str:
    """Return a text that roff shows as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("~", "\\(ti")
    # Three periods, as groff has no such character where the terminal has not: in the locale C, say.
    escaped = escaped.replace("^", "\\(ha").replace('"', "\\(dq").replace("…", "...")
    escaped = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in escaped)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _lines(text: str) -> str:
    return "\n".join(map(_plain, text.split("\n")))


if __name__ == "__main__":
    main()
