"""Who has the file of costs open: many at once, or one alone that puts a damaged file aside.

Renaming a database that another process has open lets that process write its journal beside the new file, which
damages it (SQLite, "How To Corrupt An SQLite Database File", section 4). So everybody who opens the file holds a
shared lock on a file beside it, and whoever renames holds it alone.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Sharing:
    """A lock on `path`, created if need be, that is held until `close`, or until the process ends however it ends.

    Always granted where the system or the file system has no ``flock``; Windows refuses to rename an open file
    anyway. Raises OSError if `path` cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def shared(self) -> bool:
        """Hold it together with others; false while somebody holds it alone."""
        return self._flock(alone=False)

    def alone(self) -> bool:
        """Hold it alone; false, and then nothing is held, while somebody else holds it."""
        return self._flock(alone=True)

    def close(self) -> None:
        """Let go; nothing may follow."""
        os.close(self._descriptor)

    def _flock(self, *, alone: bool) -> bool:
        if sys.platform == "win32":
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
        return True
