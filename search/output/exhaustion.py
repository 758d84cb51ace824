"""Errors of a system that has run out of something: memory, open files, processes; told by their cause, with a remedy."""

from __future__ import annotations

import errno
import resource

from spaces.errors import SecateursError

_MEMORY = (
    "allocate memory",
    "bad_alloc",
    "unable to allocate",
    "out of memory",
    "not enough memory",
    "failed to map segment",
    "cannot map",
    "unable to mmap",
)
_FILES = ("too many open files",)
_PROCESSES = ("can't start new thread", "can't create new thread", "resource temporarily unavailable", "thread creation failed")


class ExhaustedError(SecateursError):
    """Memory, open files or processes that the system does not give."""


def exhausted(error: BaseException) -> str | None:
    """Return what the system has run out of and the remedy, in words; None for an error of another kind.

    Libraries tell the same in errors of their own, or of one that they met: the chain of causes is looked through.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if (words := _words(found)) is not None:
            return words
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return None


def _words(error: BaseException) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower() if isinstance(error, OSError | RuntimeError | ImportError | SystemError) else ""
    if number in (errno.EMFILE, errno.ENFILE) or any(words in text for words in _FILES):
        limit = _limit(resource.RLIMIT_NOFILE)
        return f"no more files can be opened (the limit of this process is {limit}): raise it with `ulimit -n`"
    out_of_memory = isinstance(error, MemoryError) or number == errno.ENOMEM or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or any(words in text for words in _MEMORY):
        limit = _limit(resource.RLIMIT_AS)
        bound = "" if limit == "none" else f" (the limit of this process is {limit} bytes: raise it with `ulimit -v`)"
        return f"there is not enough memory{bound}: end other programs, use fewer workers or a smaller batch_size"
    if number == errno.EAGAIN or any(words in text for words in _PROCESSES):
        limit = _limit(resource.RLIMIT_NPROC)
        return f"no more processes or threads can be started (the limit is {limit}): raise it with `ulimit -u`, or end some"
    return None


def _limit(kind: int) -> str:
    soft = resource.getrlimit(kind)[0]
    return "none" if soft == resource.RLIM_INFINITY else f"{soft:,}"
