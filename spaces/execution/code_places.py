"""Places in a person's code: the module, the line and its text behind an operator or an error."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import nn

_OURS = Path(__file__).resolve().parents[2]
_SKIPPED = tuple(
    str(folder) + "/" for folder in (Path(torch.__file__).parent, *(_OURS / p for p in ("spaces", "evaluators", "search")))
)
_OWN_NETWORKS = frozenset(str(file) for file in (_OURS / "spaces").glob("*networks.py"))
_LONGEST = 100


def running_place() -> str:
    """Return the line of the network's code that is running: "`x.view(-1, 8)` in net.py:41"; empty where there is none."""
    line = running_line()
    return "" if line is None else place_of(*line)


def running_line() -> tuple[str, int] | None:
    """Return file and number of the line of the network's code that is running; None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_persons(frame.f_code.co_filename):
            return (frame.f_code.co_filename, frame.f_lineno) if _in_module(frame) else None
        frame = frame.f_back
    return None


def nearest_line() -> tuple[str, int] | None:
    """Return file and number of the innermost running line that is no library's; None where there is none.

    Unlike :func:`running_line` without a look at variables, which would keep their tensors alive.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_persons(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def failed_place(error: BaseException, model: nn.Module) -> tuple[str, str]:
    """Return where ``error`` was raised: the name of the innermost module of ``model``, and the line of the network's code.

    Either is empty where the traceback does not tell.
    """
    names = {id(module): name for name, module in model.named_modules()}
    module = line = ""
    for frame, number in walked(error.__traceback__):
        running = frame.f_locals.get("self")
        if id(running) in names:
            module = names[id(running)]
            if _is_persons(frame.f_code.co_filename):
                line = place_of(frame.f_code.co_filename, number)
        elif line and _is_persons(frame.f_code.co_filename):
            line = place_of(frame.f_code.co_filename, number)
    return module, line


def walked(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a traceback with their lines, from the outermost to the innermost."""
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _in_module(frame: FrameType | None) -> bool:
    """Return True if ``frame`` is called, at any depth, by the call of a module."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), nn.Module):
            return True
        frame = frame.f_back
    return False


def _is_persons(file: str) -> bool:
    return file in _OWN_NETWORKS or not file.startswith((*_SKIPPED, "<frozen"))


def place_of(file: str, line: int) -> str:
    """Return a line of code in words: "`x.view(-1, 8)` in net.py:41"."""
    text = linecache.getline(file, line).strip()
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    place = f"{Path(file).name}:{line}"
    return f"`{text}` in {place}" if text else place
