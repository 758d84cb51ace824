"""Inputs of ONNX models for a comparison: values that a person gave, random numbers for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from spaces.errors import SecateursError

TYPES = {"float": np.float32, "float16": np.float16, "double": np.float64, "bool": np.bool_} | {
    f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
}
"""Types of inputs that can be made, by ONNX Runtime's names."""

Value = int | float | bool | list[Any]
"""A value of an input as JSON has it: a number, true or false, or a list of them of any depth."""


def given_inputs(model: ir.Model, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Value]) -> dict[str, np.ndarray]:
    """Return the values as arrays of the types of a model's inputs.

    Args:
        model: The model.
        shapes: Shapes of inputs, by name; a single number is repeated to the shape, a list must have it.
        values: Values of inputs, by name.

    Raises:
        SecateursError: The model has no such input, or a value does not fit its type or shape.
    """
    inputs = {value.name: value for value in model.graph.inputs if value.name not in model.graph.initializers}
    for option, names in (("--shape", shapes), ("--value", values)):
        for name in sorted(names.keys() - inputs.keys()):
            raise SecateursError(f"{option} {name}: the model has no such input; it has {', '.join(map(str, inputs))}")
    return {name: _array(inputs[name], value, shapes.get(name)) for name, value in values.items()}


def _array(entry: ir.Value, value: Value, shape: Sequence[int] | None) -> np.ndarray:
    place = f"--value {entry.name}"
    if entry.dtype is None or np.dtype(entry.dtype.numpy()) not in {np.dtype(known) for known in TYPES.values()}:
        kind = "unknown type" if entry.dtype is None else f"type {entry.dtype.name}"
        raise SecateursError(f"{place}: the input is of {kind}, for which no value can be given")
    dtype = np.dtype(entry.dtype.numpy())
    try:
        found = np.array(value)
    except ValueError as error:
        raise SecateursError(f"{place}: expected a list whose rows are of one length, got {value}") from error
    allowed, words = {"f": ("iuf", "numbers"), "b": ("b", "true or false")}.get(dtype.kind, ("iu", "whole numbers"))
    # An empty list is of no type.
    if found.size and (found.dtype.kind not in allowed or _mixed(value)):
        raise SecateursError(f"{place}: expected {words} for an input of type {dtype.name}, got {value}")
    if dtype.kind in "iu" and found.size and not np.iinfo(dtype).min <= found.min() <= found.max() <= np.iinfo(dtype).max:
        raise SecateursError(f"{place}: {value} is out of the range of {dtype.name}")
    dims = list(entry.shape) if entry.shape is not None else None
    fits = dims is None or (
        len(dims) == found.ndim
        and all(not isinstance(dim, int) or dim == size for dim, size in zip(dims, found.shape, strict=True))
    )
    if found.ndim and not (fits and (shape is None or list(shape) == list(found.shape))):
        expected = list(shape) if shape is not None else [dim if isinstance(dim, int) else str(dim) for dim in dims or ()]
        raise SecateursError(f"{place}: expected shape {expected}, got {list(found.shape)}")
    return found.astype(dtype)


def _mixed(value: Any) -> bool:
    """Return True for a list with both numbers and true or false, which numpy takes for numbers."""
    kinds = {type(leaf) is bool for leaf in _leaves(value)}
    return len(kinds) > 1


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, list) else [value]


def named_sizes(entries: Sequence[Any], values: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the sizes of named dimensions that follow from values of inputs.

    Args:
        entries: Inputs of an ONNX Runtime session.
        values: Values of inputs, by name.
    """
    return {
        dim: size
        for entry in entries
        if entry.name in values
        for dim, size in zip(entry.shape, values[entry.name].shape, strict=False)
        if isinstance(dim, str)
    }


def full_shape(entry: Any, shape: Sequence[int] | None, size: int, sizes: dict[str, int]) -> list[int]:
    """Return the shape of an input; open dimensions get ``size``, the first one 2.

    Args:
        entry: An input of an ONNX Runtime session.
        shape: The shape that was given, if any.
        size: Size of open dimensions.
        sizes: Sizes of dimensions by name, filled in place, as dimensions of one name get one size.
    """
    if shape is not None:
        return list(shape)
    found = []
    for index, dim in enumerate(entry.shape):
        fixed = isinstance(dim, int) and dim >= 0
        free = str(dim or (entry.name, index))
        found.append(dim if fixed else sizes.setdefault(free, 2 if index == 0 else size))
    return found


def random_input(element: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return random numbers of a type in :data:`TYPES`: normal ones times 3, or 0 and 1 of other than floating-point types."""
    dtype = np.dtype(TYPES[element])
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * 3).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
