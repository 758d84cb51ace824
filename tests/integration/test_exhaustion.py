"""A machine without memory, address space or open files for a run: told in one line, nothing lost, the same end afterwards."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from search.output.exhaustion import ExhaustedError
from search.report import page
from tests.integration.killed_runs import BITS, be_the_command, differences, outcome
from tests.integration.test_failing_scores import Score, call
from tests.integration.tiny_pipeline import finish, start_call, timeless, write_config
from tests.variants import few

NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
]


class Lacking(Score):
    """A score for which there is no memory, once, at one of its calls in a run that has begun."""

    def __init__(self, folder: Path, at: int, error: Exception) -> None:
        super().__init__("mended")
        self.folder, self.left, self.error = folder, at, error

    def __call__(self, outputs: Tensor, targets: Tensor) -> Any:
        self.left -= (self.folder / "config.yaml").exists()
        if self.left == 0:
            self.left = -1
            raise self.error
        return super().__call__(outputs, targets)


@pytest.mark.parametrize("error", few(NO_MEMORY), ids=lambda error: type(error).__name__)
def test_without_memory_at_any_call_nothing_is_lost(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "render_where_installed", lambda folder, say: None)
    whole = timeless(call(tmp_path / "whole" / "mine", "mended").report)
    folder = tmp_path / "mine"
    # In trials, at the delivery of the best, and at measurements on the test split; the loaders are checked by a call first.
    for at in (1, 3, 3, 4, 3, 3):
        with pytest.raises(ExhaustedError, match=r"there is not enough memory.*the same command goes on") as told:
            call(folder, Lacking(folder, at, error))
        assert "\n" not in str(told.value)
    report = call(folder, "mended").report
    assert report["searches"][0]["failed"] == 0
    assert timeless(report) == whole


def be_limited(kind: int, more: int, *arguments: Path) -> None:
    """Be the command with little of something: its present use and ``more``; without a limit where that is -1."""
    if more >= 0:
        resource.setrlimit(kind, (_used(kind) + more, resource.getrlimit(kind)[1]))
    be_the_command(*arguments)


def _used(kind: int) -> int:
    if kind == resource.RLIMIT_NOFILE:
        taken, number = {int(path.name) for path in Path("/proc/self/fd").iterdir()}, 0
        while number in taken:
            number += 1
        return number
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


LIMITS = {
    "open files": (resource.RLIMIT_NOFILE, [1, 2, 3, 4, 5, 6, 8], "no more files can be opened"),
    "address space": (
        resource.RLIMIT_AS,
        [more * 2**20 for more in (1, 4, 8, 16, 32, 64)],
        "there is not enough memory",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LIMITS))
def test_with_too_little_of_something_it_goes_on_where_there_is_more(name: str, tmp_path: Path) -> None:
    kind, steps, words = LIMITS[name]
    config = write_config(tmp_path, BITS)
    finish(start_call(be_the_command, config, tmp_path / "whole", tmp_path / "whole.txt"))
    codes = []
    for step, more in enumerate([*steps, -1]):
        output = tmp_path / f"output-{step}"
        process = start_call(be_limited, kind, more, config, tmp_path / "limited", output)
        process.join(timeout=300)
        codes.append(process.exitcode)
        told = output.read_text() if output.exists() else ""
        print(name, more, process.exitcode, told.splitlines()[-1:], flush=True)
        if process.exitcode == 0:
            break
        assert process.exitcode in (2, 70), told
        # A library that lost a part of itself may fail with another error: then the limit is named beside that.
        assert (words if process.exitcode == 2 else "for want of memory") in told.splitlines()[-1]
        assert "Traceback" not in told
    assert codes[-1] == 0
    assert len(codes) > 1
    assert differences(outcome(tmp_path / "limited" / "tiny"), outcome(tmp_path / "whole" / "tiny")) == []
    shutil.rmtree(tmp_path / "limited")
