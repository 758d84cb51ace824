"""Export of networks to ONNX, as a file or as bytes; quantized weights keep their stored integers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from evaluators.onnx.difference import LayerOutputs, cause_of_difference, first_different, oversized_bias
from evaluators.onnx.quantized import OPSETS, forms, is_stored, narrow, with_onnx_operators
from evaluators.onnx.session import open_session
from evaluators.task import Task
from spaces.errors import SecateursError, error_line

if TYPE_CHECKING:
    import onnx_ir as ir

T = TypeVar("T")


class ExportError(SecateursError):
    """A network can't be exported, or the exported file gives other outputs than the network."""


class TaskForward(nn.Module):
    """A network as its task calls it, on one tensor."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        """Wrap ``model``, called by ``task.forward``."""
        super().__init__()
        self.model = model
        self._run = task.forward

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the task's outputs for ``inputs``."""
        return self._run(self.model, inputs)


def write_onnx(folder: Path, module: nn.Module, inputs: Tensor) -> Tensor:
    """Write model.onnx, with a free batch size, and return ONNX Runtime's outputs for ``inputs``.

    The integers of a quantized network get the narrowest types accepted by the installed ONNX Runtime.

    Raises:
        ExportError: The network can't be exported, or ONNX Runtime does not run the file.
    """
    import onnx

    path = folder / "model.onnx"

    def answer(program: Any) -> Tensor:
        program.save(str(path), external_data=False)
        onnx.checker.check_model(str(path))
        session = open_session(str(path))
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])

    return _first_accepted(module, inputs, answer, any_batch=True)


def describe_difference(folder: Path, module: nn.Module, inputs: Tensor, expected: Tensor, tolerance: float) -> str:
    """Return at which layer, and why, model.onnx answers otherwise than ``module``, as far as it can be told.

    Args:
        folder: Where :func:`write_onnx` wrote the file.
        module: The network.
        inputs: A batch.
        expected: The network's outputs for the batch.
        tolerance: Largest accepted difference.
    """
    cause = cause_of_difference(str(folder / "model.onnx"), module, inputs, expected, tolerance)
    large = oversized_bias(module)
    if large is not None:
        return f"layer {large[0].removeprefix('model.')}: {cause}"
    traced = LayerOutputs(module, inputs).eval()
    try:
        layer = first_different(traced, onnx_bytes(traced, inputs), inputs)
    except ExportError:
        layer = None
    if layer is None:
        return f"no layer differs when its output is looked at by itself; {cause}"
    return f"layer {layer.removeprefix('model.')} is the first that differs: {cause}"


def onnx_bytes(module: nn.Module, inputs: Tensor) -> bytes:
    """Return ``module`` as serialized ONNX, for the batch size of ``inputs``, in a form accepted by the installed ONNX Runtime.

    Raises:
        ExportError: The network can't be exported, or ONNX Runtime does not load it.
    """

    def accept(program: Any) -> bytes:
        content: bytes = program.model_proto.SerializeToString()
        open_session(content)
        return content

    return _first_accepted(module, inputs, accept, any_batch=False)


def _first_accepted(module: nn.Module, inputs: Tensor, accept: Callable[[Any], T], any_batch: bool) -> T:
    """Return the result of ``accept`` for the first form of a network on which ``accept`` does not fail."""
    if not is_stored(module):
        return accept(_program(module, inputs, None, lambda model: None, any_batch))
    problem: Exception | None = None
    for program in _quantized_programs(module, inputs, any_batch):
        try:
            return accept(program)
        except OSError:
            raise
        except Exception as error:
            problem = error
    raise ExportError(f"ONNX Runtime does not run the quantized network: {error_line(problem or ValueError())}") from problem


def _quantized_programs(module: nn.Module, inputs: Tensor, any_batch: bool) -> Iterator[Any]:
    for form in forms(module):
        opset = OPSETS[min(form.widths)]
        yield _program(with_onnx_operators(module, form), inputs, opset, partial(narrow, form=form), any_batch)


def _program(module: nn.Module, inputs: Tensor, opset: int | None, finish: Callable[[ir.Model], None], any_batch: bool) -> Any:
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                (inputs,),
                dynamo=True,
                input_names=["input"],
                output_names=["output"] if any_batch else None,
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("batch")},) if any_batch else None,
                verbose=False,
            )
            if program is None:
                raise ExportError("export to onnx gave nothing")
            finish(program.model)
    except (ExportError, OSError):
        raise
    except Exception as error:
        remedy = "leave onnx out of export.formats" if any_batch else "set latency.backend: eager"
        raise ExportError(f"export to onnx failed: {error_line(error)}; {remedy}") from error
    return program


class quiet:  # noqa: N801 - a context manager
    """Context without warnings and without log lines up to WARNING."""

    def __enter__(self) -> None:
        """Silence warnings and logging."""
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *details: object) -> None:
        """Restore warnings and logging."""
        logging.disable(self._level)
        self._warnings.__exit__(None, None, None)
