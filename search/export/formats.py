"""Writers of the formats that other programs run, ONNX and torch.export, each file compared with the network."""

from __future__ import annotations

import copy
import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluators.onnx.quantized import is_stored
from evaluators.onnx_export import ExportError, TaskForward, describe_difference, quiet, write_onnx
from evaluators.task import Task
from search.export.sealed_file import FILES, seal
from search.export.settings import ExportSettings
from spaces.errors import error_line
from spaces.quantization.stored_weight import stored_weights


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
        module = TaskForward(model, task)
        outputs = writers[name](folder, module, inputs)
        with torch.no_grad():
            expected = task.forward(model, inputs)
            tolerance = settings.tolerance * max(1.0, float(expected.abs().max()))
            tolerance += 4.0 * _own_noise(model, task, inputs, expected)
        error = float((outputs.detach() - expected).abs().max())
        if not error <= tolerance:
            place = f" ({describe_difference(folder, module, inputs, expected, tolerance)})" if name == "onnx" else ""
            raise ExportError(
                f"export to {name}: expected the network's outputs to within {settings.tolerance:g}, got a difference "
                f"of {error:g}{place}; raise export.tolerance if that is good enough, or leave {name} out of "
                "export.formats"
            )
        seal(folder / FILES[name])


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
        for weight in stored_weights(moved).values():
            weight.scale *= 1.0 + 1e-5 * torch.randn(weight.scale.shape, generator=generator)
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
            f"export to torch_export failed: {error_line(error)}; leave torch_export out of export.formats"
        ) from error
    return outputs


def _require_no_samples(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        samples = [entry for entry in archive.infolist() if "sample_inputs" in entry.filename and entry.file_size > 0]
    if samples:
        raise ExportError(f"{path.name} holds pickled sample inputs: {samples[0].filename}")
