"""Locks: two processes never write to one folder. The system frees a lock however its process ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fext.errors import CheckpointError, FextError
from fext.store import files

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def locked(folder: Path, in_use: FextError | None = None) -> Iterator[None]:
    """Hold the lock of a folder, and clear away what a killed process left there unfinished.

    Raises the error given, else CheckpointError, where another process holds it. Some network disks know no locks:
    there it is no guard.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        trained = CheckpointError(f"{folder.name} is being trained by another process: wait for it, or stop it")
        raise in_use or trained from error
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise FextError(f"{lock.lock_file} cannot be written: {error.strerror or error}") from error
    try:
        files.remove_unfinished(folder)
        yield
    finally:
        lock.release()


def remove_abandoned(parent: Path) -> None:
    """Remove folders that a process was killed over while it was filling them; those of living ones are locked."""
    for name in files.unfinished_folders(parent):
        with suppress(CheckpointError), locked(parent / name):
            pass
