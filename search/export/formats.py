"""Writers of the formats that other programs run, ONNX and torch.export, each file compared with the network."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluators.onnx.quantized import is_stored
from evaluators.onnx_export import ExportError, batch_axes, describe_difference, exportable, quiet, write_onnx
from evaluators.task import Task
from search.export.sealed_file import FILES, seal
from search.export.settings import ExportSettings
from spaces.cloning.clone import clone
from spaces.errors import error_line
from spaces.execution.batch import Nested
from spaces.execution.comparison import largest_gap
from spaces.execution.forward import arguments, tensors_in
from spaces.quantization.stored_weight import stored_weights


def write_formats(
    folder: Path, model: nn.Module, task: Task, settings: ExportSettings, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Write ``model`` into ``folder`` in other forms, and compare each with it on a few samples.

    ``tell`` gets a line on sizes that a form has fixed.

    Raises:
        ExportError: A form can't be written, or differs by more than ``settings.tolerance``.
    """
    model = model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    samples = 16 if is_stored(model) else 3
    batch, _ = next(iter(task.batches("search", samples, limit=samples)))
    module, inputs = exportable(model, task, batch)
    writers: Mapping[str, Callable[..., list[Tensor]]] = {
        "onnx": partial(write_onnx, names=module.entries, tell=tell),
        "torch_export": write_torch_export,
    }
    for name in settings.formats:
        outputs = writers[name](folder, module, inputs)
        with torch.no_grad():
            expected = tensors_in(task.exported(model, batch))
            _require_shapes(name, outputs, expected)
            error, scale = largest_gap(outputs, expected)
            tolerance = settings.tolerance * max(1.0, scale) + 4.0 * _own_noise(model, task, batch, expected)
        if not error <= tolerance:
            place = f" ({describe_difference(folder, module, inputs, expected, tolerance)})" if name == "onnx" else ""
            raise ExportError(
                f"export to {name}: expected the network's outputs to within {settings.tolerance:g}, got a difference "
                f"of {error:g}{place}; raise export.tolerance if that is good enough, or leave {name} out of "
                "export.formats"
            )
        seal(folder / FILES[name])


def _require_shapes(name: str, outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    found, wanted = ([tuple(output.shape) for output in given] for given in (outputs, expected))
    if found != wanted:
        raise ExportError(f"export to {name}: expected outputs of shapes {wanted}, got {found}")


def _own_noise(model: nn.Module, task: Task, batch: Nested, expected: Sequence[Tensor]) -> float:
    """Return how far a quantized network's outputs move when every weight does by 1e-5 of itself; 0 for a float network.

    Sums in another order are as far from each other: now and then an activation is rounded to the other neighbour.
    """
    if not is_stored(model):
        return 0.0
    generator = torch.Generator().manual_seed(0)
    noise = 0.0
    for _ in range(3):
        moved = clone(model)
        for weight in stored_weights(moved).values():
            weight.scale *= 1.0 + 1e-5 * torch.randn(weight.scale.shape, generator=generator)
        noise = max(noise, largest_gap(tensors_in(task.exported(moved, batch)), expected)[0])
    return noise


def write_torch_export(folder: Path, module: nn.Module, inputs: Nested) -> list[Tensor]:
    """Write model.pt2, with any batch size and no pickled sample inputs, and return its answers to ``inputs``."""
    path = folder / "model.pt2"
    try:
        with quiet():
            program = torch.export.export(module, arguments(inputs)[0], dynamic_shapes=batch_axes(inputs))
            program.example_inputs = None
            content = io.BytesIO()
            torch.export.save(program, content)
            path.write_bytes(content.getvalue())
            _require_no_samples(path)
            outputs = [output.detach() for output in tensors_in(torch.export.load(path).module()(*arguments(inputs)[0]))]
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
