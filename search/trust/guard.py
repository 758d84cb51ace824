"""A second line of defence while networks are built from foreign data: no connections, processes or unpickling."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

_REFUSED = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
)
_guarded: ContextVar[bool] = ContextVar("guarded", default=False)


class GuardError(RuntimeError):
    """Something that only builds a network tried to reach further."""


@contextmanager
def guarded() -> Iterator[None]:
    """Refuse connections, new processes and unpickling in this thread; lists of factories are the first line of defence."""
    _install()
    token = _guarded.set(True)
    try:
        yield
    finally:
        _guarded.reset(token)


@cache
def _install() -> None:
    # An audit hook stays for the life of the process (PEP 578).
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _REFUSED and _guarded.get():
        raise GuardError(f"building a network of a run folder must not use {event}")
