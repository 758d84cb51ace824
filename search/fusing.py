"""The command ``fuse``: merge connected activations of an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from search.export.onnx_comparison import CannotRunError, compare
from search.export.onnx_file import read, write
from search.export.onnx_inputs import Value, given_inputs
from spaces.errors import SecateursError
from spaces.fusion.onnx_models import fuse_onnx, nodes


def fuse_file(
    source: Path,
    target: Path,
    literal: bool,
    shapes: Mapping[str, Sequence[int]],
    compared: bool = True,
    values: Mapping[str, Value] | None = None,
) -> Iterator[str]:
    """Merge connected activations of the model at ``source``, write it to ``target``, and yield lines of a report.

    Args:
        source: The file; left unchanged.
        target: Path of the result, written after it was checked.
        literal: Keep a PReLU where different types of activation meet, as the patent has it.
        shapes: Shapes of inputs for the comparison, by name.
        compared: Compare outputs in ONNX Runtime.
        values: Values of inputs for the comparison, by name; other inputs are random.

    Raises:
        SecateursError: ``source`` is no usable ONNX model, ``target`` is ``source``, or the outputs differ. Nothing is
            written then.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise SecateursError(f"{target} is the input, which stays as it is: give another path to -o")
    model = read(source)
    feeds = given_inputs(model, shapes, values or {})
    before = nodes(model)
    report = fuse_onnx(model, literal)
    yield f"{source}: {before} nodes before, {nodes(model)} after; chains merged: {len(report.merges)}; constants not counted"
    yield from report.lines()
    told = ["not compared in ONNX Runtime (--no-compare); checked against the standard, and every merge on numbers of its own"]

    def accept(written: Path) -> None:
        if compared:
            told[:] = [compare(source, written, report.exact, shapes, feeds).text]

    try:
        write(model, target, accept)
    except CannotRunError as error:
        raise SecateursError(
            f"{error}. Nothing was written: --no-compare leaves the comparison out, and then the file is only checked against "
            "the standard, and every merge on numbers of its own"
        ) from error
    yield told[0]
    yield f"written: {target}"
