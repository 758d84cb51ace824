"""Quantized networks in ONNX: QuantizeLinear and DequantizeLinear with the real ranges, integers in the smallest types.

The exporter of PyTorch writes 8-bit integers; here they get the narrowest ONNX type that holds the bits (2, 4 or 8 bits wide).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.onnx.session import open_session
from spaces.cloning.clone import clone
from spaces.quantization.fake_quantize import StoredQuantizer, stored_quantizers
from spaces.quantization.stored_weight import StoredWeight, stored_weights

if TYPE_CHECKING:
    import onnx_ir as ir

WIDTHS = (2, 4, 8)
"""Bits of ONNX's integer types."""
OPSETS = {2: 25, 4: 21, 8: 21}
"""The first operator set that has the narrowest type."""
_IR_VERSIONS = {2: 13, 4: 10, 8: 10}
_INTEGER_LAYERS = ("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat")
_FLOAT_LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose", "MatMulNBits")
_SHIFT = 128
"""Zero point of 8-bit weights."""
_INTEGERS = re.compile(r"(?:^|\.)weight_integers_(\d)$")


def is_stored(module: nn.Module) -> bool:
    """Return True if a network has weights stored as integers."""
    return bool(stored_weights(module))


def _width(bits: int, widths: Sequence[int]) -> int:
    return min(width for width in widths if width >= bits)


@dataclass(frozen=True)
class Form:
    """Integer types of the weights in an ONNX file.

    Attributes:
        widths: Bits of the integer types in use, ascending.
        cast: Whether integers of 2 bits become 8-bit ones before they are dequantized: ONNX Runtime 1.32 fuses them into
            operators that it does not have for them.
    """

    widths: tuple[int, ...]
    cast: bool = False


def with_onnx_operators(module: nn.Module, form: Form) -> nn.Module:
    """Return a copy of a stored network, for export only, with ONNX's quantization operators in place of its own.

    Args:
        module: The network, with :class:`StoredWeight` and :class:`StoredQuantizer` in it.
        form: Integer types of the weights.
    """
    network = clone(module)
    version = OPSETS[min(form.widths)]
    for name, weight in stored_weights(network, remove_duplicate=False).items():
        network.set_submodule(name, _Weight(weight, version))
    for name, quantizer in stored_quantizers(network, remove_duplicate=False).items():
        network.set_submodule(name, _Activation(quantizer, version))
    return network


class _Weight(nn.Module):
    """Stored weight; one of 8 bits is written without sign, shifted by :data:`_SHIFT`.

    On x86 processors without VNNI instructions ONNX Runtime adds up pairs of products of unsigned inputs and signed weights in
    16 bits, which overflow from 8 bits on, and computes unsigned weights without overflow. With VNNI both are one.
    """

    def __init__(self, stored: StoredWeight, version: int) -> None:
        super().__init__()
        integers, scale = stored.integers(), stored.scale.detach().clone()
        self.name, self.axis, self.version = f"weight_integers_{stored.bits}", stored.axis, version
        self.zero_point = torch.full_like(scale, _SHIFT, dtype=torch.uint8) if stored.bits == 8 else None
        unsigned = self.zero_point is not None
        self.register_buffer(self.name, (integers + _SHIFT).to(torch.uint8) if unsigned else integers.to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self) -> Tensor:
        integers = self.get_buffer(self.name)
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (integers, self.get_buffer("scale"), *([] if self.zero_point is None else [self.zero_point])),
            attrs={"axis": self.axis},
            dtype=torch.float32,
            shape=integers.shape,
            version=self.version,
        )


class _Activation(nn.Module):
    """Quantized activation; below 8 bits a clamp, as ONNX Runtime 1.32 takes no narrower activations behind a ReLU."""

    def __init__(self, stored: StoredQuantizer, version: int) -> None:
        super().__init__()
        scale, zero_point = stored.step.tolist()
        high = stored.format.high
        self.version = version
        self.range = (-zero_point * scale, (high - zero_point) * scale) if stored.bits < 8 else None
        self.register_buffer("scale", stored.step[0].detach().clone())
        self.register_buffer("zero_point", torch.tensor(int(zero_point), dtype=torch.uint8))

    def forward(self, values: Tensor) -> Tensor:
        if self.range is not None:
            values = values.clamp(*self.range)
        step = self.get_buffer("scale"), self.get_buffer("zero_point")
        integers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (values, *step), dtype=torch.uint8, shape=values.shape, version=self.version
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (integers, *step), dtype=torch.float32, shape=values.shape, version=self.version
        )


def narrow(model: ir.Model, form: Form) -> None:
    """Store every quantized weight in the narrowest integer type of ``form``, in place; metadata on source code is removed."""
    import onnx_ir as ir

    names = {8: "INT8", 4: "INT4", 2: "INT2"}
    for name, value in list(model.graph.initializers.items()):
        found = _INTEGERS.search(name)
        if found is not None and value.const_value is not None:
            bits = int(found[1])
            width = _width(bits, form.widths)
            dtype = ir.DataType["UINT8" if bits == 8 else names[width]]
            value.const_value = ir.Tensor(value.const_value.numpy().astype(dtype.numpy()), dtype=dtype, name=name)
            value.dtype = dtype
            if form.cast and width == 2:
                _widen(model.graph, value)
    for node in model.graph:
        node.metadata_props.clear()
    model.ir_version = max(model.ir_version or 0, _IR_VERSIONS[min(form.widths)])


def _widen(graph: ir.Graph, value: ir.Value) -> None:
    """Insert a cast to 8 bits between an initializer and its readers; ONNX Runtime computes the cast once, at loading."""
    import onnx_ir as ir

    uses = list(value.uses())
    cast = ir.node("Cast", [value], attributes={"to": int(ir.DataType.INT8)}, name=f"{value.name}_to_int8")
    cast.outputs[0].name = f"{value.name}_as_int8"
    cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.INT8, value.shape
    for node, index in uses:
        node.replace_input_with(index, cast.outputs[0])
    graph.insert_before(uses[0][0], cast)


def stored_integers(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return (bits of the type, smallest, largest) of every quantized weight in an ONNX file, by initializer name.

    The integers are those with sign, whichever way they are written.
    """
    import onnx_ir as ir

    model = ir.load(path)
    found = {}
    for name, value in model.graph.initializers.items():
        if _INTEGERS.search(name) is not None and value.const_value is not None:
            integers = value.const_value.numpy().astype(np.int64)
            if value.const_value.dtype == ir.DataType.UINT8:
                integers -= _SHIFT
            bits = int(value.const_value.dtype.itemsize * 8)
            found[name] = bits, int(integers.min()), int(integers.max())
    return found


def deployment(path: Path) -> dict[str, Any]:
    """Return the numbers of integer and of float layers in a file as optimized by ONNX Runtime for this machine's CPU.

    Returns:
        ``integer_layers``, ``float_layers`` and ``version`` (of ONNX Runtime).
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        optimized = str(Path(folder) / "optimized.onnx")
        open_session(str(path), optimized_model_filepath=optimized)
        kinds = [node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node]
    return {
        "integer_layers": sum(kind in _INTEGER_LAYERS for kind in kinds),
        "float_layers": sum(kind in _FLOAT_LAYERS for kind in kinds),
        "version": onnxruntime.__version__,
    }


def forms(module: nn.Module) -> list[Form]:
    """Return the forms to try for a network, the one with the narrowest types known to the installed onnx first."""
    import onnx

    types = onnx.TensorProto.DataType.keys()
    narrowest = min(_width(weight.bits, WIDTHS) for weight in stored_weights(module).values())
    found = [Form(WIDTHS[1:]), Form(WIDTHS[2:])]
    if narrowest == 2 and "INT2" in types:
        found = [Form(WIDTHS), Form(WIDTHS, cast=True), *found]
    return found if narrowest < 8 else found[1:]
