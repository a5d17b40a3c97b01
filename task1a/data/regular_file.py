"""Opening of files that the user names, which may be special files."""
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    Other files are not opened: a named pipe would block until somebody writes to it, and a device may never end.

    Raises:
        OSError: the file does not exist, is not a regular file, or cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a NUL, or a character that this system does not allow in names
        raise OSError(errno.EINVAL, "not a possible file name", str(path)) from None
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")
