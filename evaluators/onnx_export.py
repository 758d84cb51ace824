"""Export of networks to ONNX, as a file or as bytes; quantized weights keep their stored integers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from evaluators.onnx.difference import LayerOutputs, cause_of_difference, first_different, oversized_bias
from evaluators.onnx.quantized import OPSETS, forms, is_stored, narrow, with_onnx_operators
from evaluators.onnx.session import feeds, open_session
from evaluators.task import Task
from spaces.errors import SecateursError, error_line
from spaces.execution.batch import Nested, at_length, count_samples, describe, map_tensors, named_tensors
from spaces.execution.comparison import largest_gap
from spaces.execution.forward import arguments, tensors_in

if TYPE_CHECKING:
    import onnx_ir as ir

T = TypeVar("T")
_ROUNDING = 1e-4
"""Largest difference, relative to the outputs, of a file and its network on texts of another length."""


class ExportError(SecateursError):
    """A network can't be exported, or the exported file gives other outputs than the network."""


class TaskForward(nn.Module):
    """A network as its task has it exported, on one tensor."""

    entries: tuple[str, ...] = ("input",)

    def __init__(self, model: nn.Module, task: Task) -> None:
        """Wrap ``model``, called by ``task.exported``."""
        super().__init__()
        self.model = model
        self._run = task.exported

    def forward(self, inputs: Tensor) -> Any:
        """Return the task's outputs for ``inputs``: a tensor, or a tuple of all that they hold."""
        return _flat(self._run(self.model, inputs))


class EntriesForward(nn.Module):
    """A network as its task has it exported, on the tensors of a batch of any nesting, an argument each.

    Attributes:
        entries: Names of the arguments: the places of the tensors in the batch.
    """

    def __init__(self, model: nn.Module, task: Task, batch: Nested) -> None:
        """Wrap ``model``, called by ``task.exported`` on batches of the structure of ``batch``."""
        super().__init__()
        self.model = model
        self.entries = tuple(name for name, _ in named_tensors(batch))
        self._structure = map_tensors(lambda tensor: tensor.new_empty(0), batch)
        self._run = task.exported

    def forward(self, *entries: Tensor) -> Any:
        """Return the task's outputs for the batch: a tensor, or a tuple of all that they hold."""
        given = iter(entries)
        return _flat(self._run(self.model, map_tensors(lambda _: next(given), self._structure)))


def _flat(outputs: Any) -> Any:
    return outputs if isinstance(outputs, Tensor) else tuple(tensors_in(outputs))


def exportable(model: nn.Module, task: Task, batch: Nested) -> tuple[TaskForward | EntriesForward, Nested]:
    """Return ``model`` as a module for exporters, and the tensor, or the tuple of tensors, to call it with for ``batch``.

    Nested batches become flat ones, an argument for every tensor, since the files know no nesting.
    """
    if isinstance(batch, Tensor):
        return TaskForward(model, task), batch
    return EntriesForward(model, task, batch), tuple(tensor for _, tensor in named_tensors(batch))


def batch_axes(inputs: Nested) -> Any:
    """Return torch.export's dynamic shapes: the samples of every tensor that has a row for each are free in number."""
    dim = torch.export.Dim("batch")
    if isinstance(inputs, Tensor):
        return ({0: dim},)
    samples = count_samples(inputs)
    return {"entries": tuple({0: dim} if entry.dim() and len(entry) == samples else None for entry in inputs)}


def _ids(inputs: Nested) -> Tensor | None:
    """Return the ids of tokens: the first tensor but for masks, if it holds integers of shape ``(N, tokens)``; else None."""
    first = next((entry for _, entry in named_tensors(inputs) if entry.dtype != torch.bool), None)
    return None if first is None or first.dim() != 2 or first.is_floating_point() else first


def token_axes(inputs: Nested) -> Any:
    """Return :func:`batch_axes` with a free number of tokens, the second dimension of ids and of what is as long as they are.

    None for inputs that are no text: the first tensor, but for masks, holds no integers of shape ``(N, tokens)``.
    """
    entries, ids = [tensor for _, tensor in named_tensors(inputs)], _ids(inputs)
    if ids is None:
        return None
    tokens, length = torch.export.Dim("tokens"), ids.shape[1]

    def freed(entry: Tensor, axes: Any) -> Any:
        return {**(axes or {}), 1: tokens} if entry.dim() > 1 and entry.shape[1] == length else axes

    found = batch_axes(inputs)
    if isinstance(inputs, Tensor):
        return (freed(inputs, found[0]),)
    return {"entries": tuple(freed(entry, axes) for entry, axes in zip(entries, found["entries"], strict=True))}


def write_onnx(
    folder: Path,
    module: nn.Module,
    inputs: Nested,
    names: Sequence[str] = ("input",),
    tell: Callable[[str], None] = lambda line: None,
) -> list[Tensor]:
    """Write model.onnx, with a free batch size, and return ONNX Runtime's outputs for ``inputs``.

    Of text the number of tokens is free too, where the file answers as the network does with half of them; else ``tell`` gets
    a line on why it is not. Inputs are named ``names``, an output "output", several "output_0", "output_1". The integers of a
    quantized network get the narrowest types accepted by the installed ONNX Runtime.

    Raises:
        ExportError: The network can't be exported, or ONNX Runtime does not run the file.
    """
    ids = _ids(inputs)
    if ids is not None:
        length = ids.shape[1]
        try:
            outputs = _written(folder, module, inputs, names, token_axes(inputs))
            _require_length(folder, module, at_length(inputs, max(1, length // 2)))
            return outputs
        except OSError:
            raise
        except Exception as error:
            tell(f"model.onnx takes texts of {length} tokens only: {error_line(error)}")
    return _written(folder, module, inputs, names, batch_axes(inputs))


def _require_length(folder: Path, module: nn.Module, inputs: Nested) -> None:
    """Compare model.onnx with the network on texts of another length.

    Raises:
        ExportError: Their outputs differ in shape, or, of a network without stored integers, by more than rounding.
    """
    with torch.no_grad():
        expected = tensors_in(module(*arguments(inputs)[0]))
    session = open_session(str(folder / "model.onnx"))
    outputs = [torch.from_numpy(output) for output in session.run(None, feeds(session, inputs))]
    shapes = [[tuple(output.shape) for output in given] for given in (outputs, expected)]
    if shapes[0] != shapes[1]:
        raise ExportError(f"expected outputs of shapes {shapes[1]} for {describe(inputs)}, got {shapes[0]}")
    gap, scale = largest_gap(outputs, expected)
    # Rounded activations jump; that they agree is checked at the length of the samples.
    if not is_stored(module) and not gap <= _ROUNDING * max(1.0, scale):
        raise ExportError(f"expected the network's outputs for {describe(inputs)}, got a difference of {gap:g}")


def _written(folder: Path, module: nn.Module, inputs: Nested, names: Sequence[str], axes: Any) -> list[Tensor]:
    import onnx

    path = folder / "model.onnx"

    def answer(program: Any) -> list[Tensor]:
        program.save(str(path), external_data=False)
        onnx.checker.check_model(str(path))
        session = open_session(str(path))
        return [torch.from_numpy(output) for output in session.run(None, feeds(session, inputs))]

    return _first_accepted(module, inputs, answer, names, axes)


def describe_difference(folder: Path, module: nn.Module, inputs: Nested, expected: Sequence[Tensor], tolerance: float) -> str:
    """Return at which layer, and why, model.onnx answers otherwise than ``module``, as far as it can be told.

    Args:
        folder: Where :func:`write_onnx` wrote the file.
        module: The network.
        inputs: What the module is called with.
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


def onnx_bytes(module: nn.Module, inputs: Nested) -> bytes:
    """Return ``module`` as serialized ONNX, for the batch size of ``inputs``, in a form accepted by the installed ONNX Runtime.

    Raises:
        ExportError: The network can't be exported, or ONNX Runtime does not load it.
    """

    def accept(program: Any) -> bytes:
        content: bytes = program.model_proto.SerializeToString()
        open_session(content)
        return content

    return _first_accepted(module, inputs, accept, None, None)


def _first_accepted(module: nn.Module, inputs: Nested, accept: Callable[[Any], T], names: Sequence[str] | None, axes: Any) -> T:
    """Return the result of ``accept`` for the first form of a network on which ``accept`` does not fail."""
    if not is_stored(module):
        return accept(_program(module, inputs, None, lambda model: None, names, axes))
    problem: Exception | None = None
    for program in _quantized_programs(module, inputs, names, axes):
        try:
            return accept(program)
        except OSError:
            raise
        except Exception as error:
            problem = error
    raise ExportError(f"ONNX Runtime does not run the quantized network: {error_line(problem or ValueError())}") from problem


def _quantized_programs(module: nn.Module, inputs: Nested, names: Sequence[str] | None, axes: Any) -> Iterator[Any]:
    for form in forms(module):
        opset = OPSETS[min(form.widths)]
        yield _program(with_onnx_operators(module, form), inputs, opset, partial(narrow, form=form), names, axes)


def _program(
    module: nn.Module,
    inputs: Nested,
    opset: int | None,
    finish: Callable[[ir.Model], None],
    names: Sequence[str] | None,
    axes: Any,
) -> Any:
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                arguments(inputs)[0],
                dynamo=True,
                input_names=None if names is None else list(names),
                output_names=None if names is None else _output_names(module, inputs),
                opset_version=opset,
                dynamic_shapes=axes,
                verbose=False,
            )
            if program is None:
                raise ExportError("export to onnx gave nothing")
            finish(program.model)
    except (ExportError, OSError):
        raise
    except Exception as error:
        remedy = "leave onnx out of export.formats" if names is not None else "set latency.backend: eager"
        raise ExportError(f"export to onnx failed: {error_line(error)}; {remedy}") from error
    return program


def _output_names(module: nn.Module, inputs: Nested) -> list[str]:
    with torch.no_grad():
        outputs = module(*arguments(inputs)[0])
    return ["output"] if isinstance(outputs, Tensor) else [f"output_{place}" for place in range(len(outputs))]


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
