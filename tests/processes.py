"""Finding processes of a run and of a cluster, to lose them on purpose."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

WORKER = "ray::RayWorker"


def processes(name: str, ancestor: int | None = None) -> list[int]:
    """Return the processes whose command line begins with ``name``, below ``ancestor`` (this process if not given)."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    top = os.getpid() if ancestor is None else ancestor
    return [pid for pid in found if _command(pid).startswith(name) and top in _ancestors(pid)]


def kill_with_descendants(pid: int) -> None:
    """Kill a process and all below it with SIGKILL."""
    for one in [pid, *processes("", pid)]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid
