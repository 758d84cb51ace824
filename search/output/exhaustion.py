"""Errors of a system that has run out of something: memory, open files, processes; told by their cause, with a remedy."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

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
_ONEDNN = ("could not create a primitive", "could not create a memory object", "could not execute a primitive")
"""All that PyTorch's kernels on CPUs say where they get no memory; with more words it is about a shape."""
_FILES = ("too many open files",)
_PROCESSES = ("can't start new thread", "can't create new thread", "resource temporarily unavailable", "thread creation failed")


_STATM = Path("/proc/self/statm")
_CLOSE = 0.95


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
    if out_of_memory or text.strip() in _ONEDNN or any(words in text for words in _MEMORY):
        limit = _limit(resource.RLIMIT_AS)
        bound = "" if limit == "none" else f" (the limit of this process is {limit} bytes: raise it with `ulimit -v`)"
        return f"there is not enough memory{bound}: end other programs, use fewer workers or a smaller batch_size"
    if number == errno.EAGAIN or any(words in text for words in _PROCESSES):
        limit = _limit(resource.RLIMIT_NPROC)
        return f"no more processes or threads can be started (the limit is {limit}): raise it with `ulimit -u`, or end some"
    return None


def nearly_exhausted() -> str | None:
    """Return, in words, that this process is close to the limit of its address space; None where it is not, or has none.

    A library that could not load a part of itself may go on without, and fail later with an error that tells of no memory.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        used = int(_STATM.read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return None
    if limit == resource.RLIM_INFINITY or used < _CLOSE * limit:
        return None
    return f"perhaps for want of memory: {used:,} bytes of at most {limit:,} are in use (`ulimit -v`)"


def _limit(kind: int) -> str:
    soft = resource.getrlimit(kind)[0]
    return "none" if soft == resource.RLIM_INFINITY else f"{soft:,}"
