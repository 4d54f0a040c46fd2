"""At most one process writes a run at a time."""

from __future__ import annotations

import errno
import sys

from fewbits.errors import RunError

if sys.platform != "win32":
    import fcntl

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def lock(descriptor: int, what: str) -> None:
    """Hold `descriptor` for this process until it is closed or the process ends, however it ends.

    Does nothing where the system or the file system has no ``flock``. Raises RunError if another
    process holds it.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"another process is working on {what}; wait until it ends (or stop it), or choose another directory"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
