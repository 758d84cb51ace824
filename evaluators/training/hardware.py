"""Find the processor's name and its fast number formats, and set how PyTorch computes on it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from evaluators.training.settings import Autocast


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether ``device`` computes in bfloat16 natively; emulated, bfloat16 is many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return False


def autocast(setting: Autocast, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast context of ``setting`` on ``device``; the context may be entered repeatedly."""
    if setting == "bf16" or (setting == "auto" and has_fast_bfloat16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def repeatable(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which convolutions on ``device`` give the same bits every time."""
    if device.type == "cuda":
        context: AbstractContextManager[object] = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=torch.backends.cudnn.allow_tf32
        )
        return context
    return nullcontext()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of PyTorch's threads to ``count`` inside the context; the number changes the last bits of results."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processor() -> str:
    """Return the name of this machine's processor."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
