"""Comparison of two ONNX files in ONNX Runtime, on random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from evaluators.onnx.session import open_session
from search.export.onnx_inputs import TYPES, full_shape, named_sizes, random_input
from spaces.errors import EquivalenceError, SecateursError, first_line

TOLERANCE = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-5, np.dtype(np.float16): 1e-2}
"""Largest accepted difference where slopes were multiplied, relative to the largest output."""
_SIZES = (8, 32, 64, 224, 1)
"""Tried in turn for the dimensions that a model leaves open; the first one of an input is 2."""

Feeds = dict[str, np.ndarray]


class CannotRunError(SecateursError):
    """ONNX Runtime can't run a model here, or not twice with the same answer."""


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison of two models.

    Attributes:
        error: Largest absolute difference of their outputs.
        inputs: Names and shapes of the inputs.
    """

    error: float
    inputs: Mapping[str, tuple[int, ...]]

    @property
    def text(self) -> str:
        """One line for a person."""
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items()) or "no inputs"
        found = "bit for bit the same" if self.error == 0.0 else f"the largest difference is {self.error:.2g}"
        return f"outputs in ONNX Runtime {onnxruntime.__version__} on random inputs ({shapes}): {found}"


def compare(
    before: Path, after: Path, exact: bool, shapes: Mapping[str, Sequence[int]], values: Feeds, seed: int = 0
) -> Comparison:
    """Run both files on the same inputs, without ONNX Runtime's own optimizations, and compare their outputs.

    Args:
        before: The first file.
        after: The second one, with the same inputs and outputs.
        exact: Require outputs that are equal to the last bit.
        shapes: Shapes of inputs, by name; what isn't there is taken from the file.
        values: Values of inputs, by name, where they are not random; one of no dimensions is repeated to the input's shape.
        seed: Of the random numbers.

    Raises:
        CannotRunError: The first file can't be run, or gives another answer each time.
        EquivalenceError: The outputs differ.
    """
    feeds, expected = _run_somehow(before, shapes, values, seed)
    try:
        found = _session(after).run(None, feeds)
    except Exception as error:
        raise EquivalenceError(f"ONNX Runtime runs {before}, but not the rewritten model: {first_line(error)}") from error
    worst, problem = _difference(expected, found, exact)
    if problem is not None:
        # Random operators start alike in every session, and go on from there.
        session = _session(before)
        again, changed = _difference(session.run(None, feeds), session.run(None, feeds), exact=True)
        if changed is not None:
            raise CannotRunError(f"{before} gives another answer each time (by {again:.2g})")
        raise EquivalenceError(f"after merging, the outputs of {before} differ: {problem}")
    return Comparison(worst, {name: array.shape for name, array in feeds.items()})


def _session(path: Path) -> Any:
    disabled = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(str(path), graph_optimization_level=disabled, log_severity_level=4)


def _run_somehow(path: Path, shapes: Mapping[str, Sequence[int]], values: Feeds, seed: int) -> tuple[Feeds, list[Any]]:
    """Return inputs on which the model runs, and its outputs."""
    try:
        session = _session(path)
    except Exception as error:
        raise CannotRunError(f"ONNX Runtime {onnxruntime.__version__} can't load {path}: {first_line(error)}") from error
    wanted = session.get_inputs()
    reason = ""
    for size in _SIZES:
        feeds = _feeds(wanted, shapes, values, size, np.random.default_rng(seed))
        try:
            return feeds, session.run(None, feeds)
        except Exception as error:
            reason = first_line(error)
    raise CannotRunError(
        f"ONNX Runtime can't run {path} on random inputs: {reason}; if it needs other shapes or values, "
        "give them: --shape NAME=1,3,224,224, --value NAME=7 or --value 'NAME=[[1, 2]]'"
    )


def _feeds(
    wanted: Sequence[Any], shapes: Mapping[str, Sequence[int]], values: Feeds, size: int, rng: np.random.Generator
) -> Feeds:
    """Return an array for every input: its value where one was given, else random numbers."""
    sizes = named_sizes(wanted, values)
    feeds = {}
    for entry in wanted:
        element = str(entry.type).removeprefix("tensor(").removesuffix(")")
        if element not in TYPES:
            raise CannotRunError(f"input {entry.name} is of type {entry.type}, for which no random values are made")
        value = values.get(entry.name)
        if value is not None and value.ndim > 0:
            feeds[entry.name] = value
            continue
        shape = full_shape(entry, shapes.get(entry.name), size, sizes)
        feeds[entry.name] = random_input(element, shape, rng) if value is None else np.full(shape, value)
    return feeds


def _difference(expected: Sequence[Any], found: Sequence[Any], exact: bool) -> tuple[float, str | None]:
    """Return the largest difference, and what is wrong with it or None."""
    worst = 0.0
    for one, other in zip(_flat(expected), _flat(found), strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return np.inf, f"{one.dtype} of shape {one.shape} became {other.dtype} of shape {other.shape}"
        if one.dtype.kind != "f":
            if not np.array_equal(one, other):
                return np.inf, f"an output of {one.dtype} has other values"
            continue
        with np.errstate(invalid="ignore"):
            apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
        apart = apart[~((one == other) | (np.isnan(one) & np.isnan(other)))]
        error = float(apart.max()) if apart.size else 0.0
        finite = np.abs(one[np.isfinite(one)]).astype(np.float64)
        scale = float(finite.max()) if finite.size else 1.0
        limit = 0.0 if exact else TOLERANCE[one.dtype] * scale
        if not error <= limit:
            return error, f"by {error:.3g} (outputs up to {scale:.3g}, accepted {limit:.2g})"
        worst = max(worst, error)
    return worst, None


def _flat(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, np.ndarray):
        return [outputs]
    if isinstance(outputs, Mapping):
        return [array for value in outputs.values() for array in _flat(value)]
    if isinstance(outputs, list | tuple):
        return [array for value in outputs for array in _flat(value)]
    return [np.asarray(outputs)]
