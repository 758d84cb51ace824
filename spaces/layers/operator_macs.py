"""Multiply-accumulates of single operators, from the shapes of their tensors: half the FLOPs.

The operators of ``torch.utils.flop_counter``, and those that it leaves out: attention and recurrent layers as they are fused on
processors, matrix times vector, bilinear forms, grouped products of experts, deformable convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import Tensor


def operator_macs(operator: Any, args: Sequence[Any], output: Any) -> int:
    """Return the multiply-accumulates of one call of an operator, over the whole batch; 0 for one that has none.

    Args:
        operator: Overload of an operator, as a dispatch mode sees it.
        args: Its positional arguments.
        output: Its result.
    """
    formula = FORMULAS.get(operator.overloadpacket.__name__)
    return 0 if formula is None else formula(args, output)


def _convolution(args: Sequence[Any], output: Any) -> int:
    inputs, weight, transposed = args[0], args[1], args[6]
    places: Tensor = inputs if transposed else output
    return int(places.numel() * prod(weight.shape[1:]))


def _product(first: int) -> Callable[[Sequence[Any], Any], int]:
    """Return the formula of a matrix product whose factors are the arguments from ``first`` on; they may be batched."""
    return lambda args, output: int(args[first].numel() * args[first + 1].shape[-1])


def _elements(place: int) -> Callable[[Sequence[Any], Any], int]:
    return lambda args, output: int(args[place].numel())


def _attention(args: Sequence[Any], output: Any) -> int:
    query, key, value = args[:3]
    return int(prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _recurrent(args: Sequence[Any], output: Any) -> int:
    inputs, weights = args[0], (args[1] if isinstance(args[1], list | tuple) else args[1:3])
    return int(prod(inputs.shape[:-1]) * sum(weight.numel() for weight in weights if weight.dim() == 2))


def _bilinear(args: Sequence[Any], output: Any) -> int:
    return int(prod(args[0].shape[:-1]) * args[1].numel())


FORMULAS: dict[str, Callable[[Sequence[Any], Any], int]] = {
    "mm": _product(0),
    "bmm": _product(0),
    "_int_mm": _product(0),
    "_scaled_mm": _product(0),
    "_grouped_mm": _product(0),
    "addmm": _product(1),
    "baddbmm": _product(1),
    "addbmm": _product(1),
    "mv": _elements(0),
    "dot": _elements(0),
    "vdot": _elements(0),
    "addmv": _elements(1),
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_overrideable": _convolution,
    "deform_conv2d": lambda args, output: int(output.numel() * prod(args[1].shape[1:])),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "mkldnn_rnn_layer": _recurrent,
    "_cudnn_rnn": _recurrent,
    "miopen_rnn": _recurrent,
    "_trilinear": _bilinear,
}
"""Formulas by the name of the operator: arguments and result to multiply-accumulates."""
