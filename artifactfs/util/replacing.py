"""Replaces files whole: a reader, or a crash, sees all of the old file or all of the new one.

Hard: the new file lies beside its place for a moment. So the directory is held open, and the name there is a random one
that no other user can lay a link at.
"""

import os
import stat

from artifactfs.util.path_walk import DIRECTORY, open_path


def replace_file(path: str, content: bytes, mode: int | None = None) -> None:
    """Replace the file at an absolute path, or make it; a link there is replaced, too. Its directory exists.

    `mode`: None for that of the file before, or without one that of any new file. Raises OSError.
    """
    directory, _ = open_path(os.path.dirname(path), DIRECTORY)
    try:
        name = os.path.basename(path)
        new = f".{name}.{os.urandom(8).hex()}"
        before = os.lstat(name, dir_fd=directory) if mode is None and os.path.lexists(path) else None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(new, flags, 0o666 if mode is None else mode, dir_fd=directory)
        try:
            with open(fd, "wb") as file:
                if before is not None and stat.S_ISREG(before.st_mode):
                    os.fchmod(fd, stat.S_IMODE(before.st_mode))
                file.write(content)
                file.flush()
                os.fsync(fd)
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(new, dir_fd=directory)
            raise
    except OSError as error:
        # Not the name beside it.
        error.filename, error.filename2 = path, None
        raise
    finally:
        os.close(directory)
