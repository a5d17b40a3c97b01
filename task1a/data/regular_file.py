"""Opening files that somebody else chose, of which some are no files at all."""
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes.

    Opening a FIFO waits until somebody writes into it, and a device may go on for ever; neither is opened.

    Raises:
        OSError: there is no such file, it is not a regular file, or it cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a NUL, or a character that no file name of this system can have
        raise OSError(errno.EINVAL, "not a possible file name", str(path)) from None
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")
