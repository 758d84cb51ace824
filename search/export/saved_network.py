"""Loading of a run's network in a new process, without pickle, tracing or data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from torch import nn

from evaluators.onnx_export import ExportError
from evaluators.task import Task
from search.run.best import ARCHITECTURE, FORMAT, read_best
from search.run.network import rebuild
from spaces.registry import resolve


def load(run_dir: str | Path, model_factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return the best network of a run, in evaluation mode on the CPU.

    Args:
        run_dir: The run folder, or its ``best/``.
        model_factory: Makes the original network; by default what the run was configured with.

    Raises:
        ExportError: There is no such network, or the factory makes another one.
    """
    folder = Path(run_dir)
    folder = folder / "best" if (folder / "best").is_dir() else folder
    if not (folder / ARCHITECTURE).is_file():
        raise ExportError(f"{folder} has no {ARCHITECTURE}; expected a folder of a run that has found a network")
    architecture, weights = read_best(folder)
    if architecture.get("format") != FORMAT:
        raise ExportError(f"{folder / ARCHITECTURE}: expected format {FORMAT}, got {architecture.get('format')!r}")
    model = model_factory() if model_factory is not None else _original(architecture["task"])
    try:
        return rebuild(model, architecture["transformations"], load_tensors(weights)).model
    except RuntimeError as error:
        raise ExportError(f"the weights in {folder} do not fit the network, was it changed? {error}") from error


def _original(origin: dict[str, Any]) -> nn.Module:
    if "model" in origin:
        factory, arguments = origin["model"]["factory"], origin["model"].get("arguments") or {}
        model: nn.Module = resolve(factory)(**arguments)
        return model
    try:
        task: Task = resolve(origin["class"])(**(origin.get("arguments") or {}))
        return task.build()
    except Exception as error:
        raise ExportError(
            f"the network comes from a task of the user's own, {origin.get('class')}, which can't be made here: "
            f"{error}; pass model_factory=..., a function that returns the original network"
        ) from error
