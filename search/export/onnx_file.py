"""Reading of ONNX files with clear errors, large weights left on disk; atomic writing of checked models."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from spaces.errors import SecateursError, first_line
from spaces.files.atomic import sync_folder
from spaces.fusion.onnx_nodes import scopes

OLDEST = 11
"""The first operator set with today's Clip; PRelu's slopes broadcast since 7."""
_LIMIT = 2**31
"""Protobuf writes no more bytes than this into one file; larger models keep their weights beside it."""


class OnnxFileError(SecateursError):
    """A file is no ONNX model that can be rewritten."""


def read(path: Path) -> ir.Model:
    """Return the model at ``path``; weights in files beside it stay there until they are needed.

    Raises:
        OnnxFileError: There is no such file, it isn't whole, or it uses what can't be read.
    """
    proto = _parse(path)
    _check_parts(path, proto)
    check_onnx_model(path)
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:
        raise OnnxFileError(f"{path} can't be read: {first_line(error.__cause__ or error)}") from error
    for tensor in _external(model):
        tensor.base_dir = str(path.parent)
        _check_data(path, tensor)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise OnnxFileError(f"{path}: expected an ONNX file, there is {'a folder' if path.is_dir() else 'no such file'}")
    size = path.stat().st_size
    if size == 0:
        raise OnnxFileError(f"{path} is empty; expected an ONNX model")
    if size >= _LIMIT:
        raise OnnxFileError(f"{path} has {size} bytes; an ONNX file of 2 GiB or more can't be read: keep its weights outside")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise OnnxFileError(f"{path} is no ONNX model, or not a whole one: {first_line(error)}") from error
    if not proto.ir_version or not proto.HasField("graph") or not proto.opset_import:
        raise OnnxFileError(f"{path} is no ONNX model, or not a whole one: it has no version, no graph or no operator set")
    return proto


def _check_parts(path: Path, proto: onnx.ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    for entry in [*proto.opset_import, *(entry for function in proto.functions for entry in function.opset_import)]:
        if entry.domain in ("", "ai.onnx") and not OLDEST <= entry.version <= newest:
            raise OnnxFileError(
                f"{path} has operator set {entry.version}; expected {OLDEST} to {newest} (the newest that onnx "
                f"{onnx.__version__} knows): convert it with onnx.version_converter, or install a newer onnx"
            )
    if proto.training_info:
        raise OnnxFileError(f"{path} holds training information, which would be lost; expected a model for inference")
    if any(graph.sparse_initializer for graph in _graphs(proto.graph)):
        raise OnnxFileError(f"{path} has sparse weights, which would be lost; expected dense ones")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def check_onnx_model(path: Path) -> None:
    """Hold a file against the ONNX standard.

    Raises:
        OnnxFileError: It breaks it, or has an operator that the standard does not have.
    """
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise OnnxFileError(f"{path} is no valid ONNX model: {first_line(error)}") from error


def _external(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield the tensors that lie in files beside the model."""
    for scope in scopes(model):
        for value in scope.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in scope.graph:
            for attribute in node.attributes.values():
                if isinstance(attribute.value, ir.ExternalTensor):
                    yield attribute.value


def _check_data(path: Path, tensor: ir.ExternalTensor) -> None:
    data = Path(tensor.path)
    needed = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    present = data.stat().st_size if data.is_file() else -1
    if present < needed:
        found = "is not there" if present < 0 else f"has {present} bytes"
        raise OnnxFileError(f"{path}: the weights of {tensor.name} should be in {data}, which {found}; expected {needed} bytes")


def write(model: ir.Model, path: Path, accept: Callable[[Path], None]) -> None:
    """Write ``model`` to ``path``, if ``accept`` takes the file; at no moment is there half a model.

    Weights that lie outside the file they come from are streamed to ``<name>.data`` beside ``path``, under another name where
    that is taken, so that a model already there stays whole until it is replaced.

    Args:
        model: The model.
        path: Where it goes.
        accept: Gets the written file before it is put in place; raises where it must not be.

    Raises:
        OnnxFileError: The folder isn't there, or the model doesn't fit the standard.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise OnnxFileError(f"{path}: expected the path of a file in an existing folder")
    _inline_attributes(model)
    outside = any(True for _ in _external(model))
    data = _free(path) if outside else None
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        written = folder / path.name
        ir.save(model, written, format="protobuf", external_data=data.name if data else None)
        check_onnx_model(written)
        accept(written)
        old = _data_of(path)
        if data is not None and (folder / data.name).exists():
            (folder / data.name).replace(data)
        written.replace(path)
        sync_folder(path.parent)
        for left in old - {data}:
            left.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _inline_attributes(model: ir.Model) -> None:
    """Read tensors of attributes that lie outside; files written by ``onnx_ir`` have weights only there."""
    for scope in scopes(model):
        for node in scope.graph:
            for name, attribute in list(node.attributes.items()):
                if isinstance(attribute.value, ir.ExternalTensor):
                    outside = attribute.value
                    inside = ir.Tensor(outside.numpy().copy(), dtype=outside.dtype, name=outside.name)
                    node.attributes[name] = ir.AttrTensor(name, inside)


def _free(path: Path) -> Path:
    """Return where weights may be put beside ``path``: a name that isn't taken."""
    count, found = 0, path.with_name(f"{path.name}.data")
    while found.exists():
        count += 1
        found = path.with_name(f"{path.name}.{count}.data")
    return found


def _data_of(path: Path) -> set[Path]:
    """Return the files that :func:`write` put beside the model that is at ``path`` now."""
    try:
        model = ir.serde.deserialize_model(_parse(path))
    except Exception:
        return set()
    places = {path.with_name(str(tensor.location)) for tensor in _external(model)}
    return {place for place in places if place.name.startswith(f"{path.name}.") and place.suffix == ".data"}
