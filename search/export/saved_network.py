"""Export: the network read back in a new process without pickle, tracing or data; and in other programs' forms."""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from evaluators.onnx.quantized import is_stored
from evaluators.onnx_export import ExportError, TaskForward, first_line, quiet, write_onnx
from evaluators.task import Task
from search.run.best import ARCHITECTURE, FORMAT, read_best
from search.run.network import rebuild
from spaces.quantization.stored_weight import StoredWeight
from spaces.registry import resolve

if TYPE_CHECKING:
    from search.stages.export import ExportSettings


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


def write_formats(folder: Path, model: nn.Module, task: Task, settings: ExportSettings) -> None:
    """Write ``model`` into ``folder`` in other forms, and compare each with it on a few samples.

    Raises:
        ExportError: A form can't be written, or differs by more than ``settings.tolerance``.
    """
    model = model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    samples = 16 if is_stored(model) else 3
    inputs, _ = next(iter(task.batches("search", samples, limit=samples)))
    writers = {"onnx": write_onnx, "torch_export": write_torch_export}
    for name in settings.formats:
        outputs = writers[name](folder, TaskForward(model, task), inputs)
        with torch.no_grad():
            expected = task.forward(model, inputs)
            tolerance = settings.tolerance * max(1.0, float(expected.abs().max()))
            tolerance += 4.0 * _own_noise(model, task, inputs, expected)
        error = float((outputs.detach() - expected).abs().max())
        if not error <= tolerance:
            raise ExportError(
                f"export to {name}: expected the network's outputs to within {settings.tolerance:g}, got a difference "
                f"of {error:g}; raise export.tolerance if that is good enough, or leave {name} out of export.formats"
            )


def _own_noise(model: nn.Module, task: Task, inputs: Tensor, expected: Tensor) -> float:
    """Return how far a quantized network's outputs move when every weight does by 1e-5 of itself; 0 for a float network.

    Sums in another order are as far from each other: now and then an activation is rounded to the other neighbour.
    """
    if not is_stored(model):
        return 0.0
    generator = torch.Generator().manual_seed(0)
    noise = 0.0
    for _ in range(3):
        moved = copy.deepcopy(model)
        for part in moved.modules():
            if isinstance(part, StoredWeight):
                part.scale *= 1.0 + 1e-5 * torch.randn(part.scale.shape, generator=generator)
        noise = max(noise, float((task.forward(moved, inputs) - expected).abs().max()))
    return noise


def write_torch_export(folder: Path, module: nn.Module, inputs: Tensor) -> Tensor:
    """Write model.pt2, with any batch size and no pickled sample inputs, and return its answer to ``inputs``."""
    path = folder / "model.pt2"
    try:
        with quiet():
            program = torch.export.export(module, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            program.example_inputs = None
            content = io.BytesIO()
            torch.export.save(program, content)
            path.write_bytes(content.getvalue())
            _require_no_samples(path)
            outputs: Tensor = torch.export.load(path).module()(inputs)
    except (ExportError, OSError):
        raise
    except Exception as error:
        raise ExportError(
            f"export to torch_export failed: {first_line(error)}; leave torch_export out of export.formats"
        ) from error
    return outputs


def _require_no_samples(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        samples = [entry for entry in archive.infolist() if "sample_inputs" in entry.filename and entry.file_size > 0]
    if samples:
        raise ExportError(f"{path.name} holds pickled sample inputs: {samples[0].filename}")
