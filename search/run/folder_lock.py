"""The lock of a run folder: on the folder itself, so that it holds when a file in it is deleted."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

LOCK_FILE = ".lock"
_UNSUPPORTED = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EISDIR)


class FolderBusyError(OSError):
    """Another process holds the lock."""


class FolderLock:
    """An exclusive lock of a folder for this process, released by its end, however it ends.

    Locked are the folder and the file ``.lock`` in it: file systems that can't lock a folder (NFS) lock the file.

    Args:
        folder: The folder, which exists.

    Raises:
        FolderBusyError: Another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._handles = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            self._lock(self._handles[0], _UNSUPPORTED)
            self._handles.append(os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
            self._lock(self._handles[1], ())
        except BaseException:
            self.release()
            raise

    def _lock(self, handle: int, unsupported: tuple[int, ...]) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise FolderBusyError(error.errno, "locked by another process") from None
            if error.errno not in unsupported:
                raise

    def release(self) -> None:
        """Give the lock back; once is enough."""
        while self._handles:
            os.close(self._handles.pop())
