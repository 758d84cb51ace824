"""Layer rules: how the layers with weights tie their weights to the channels they read and write."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.labels import along, varying, vector
from spaces.channels.trace import LayerTrace
from spaces.channels.tracer import Tracer

Rule = Callable[..., None]


def _record(tracer: Tracer, **fields: Any) -> None:
    tracer.trace.layers.append(LayerTrace(name=tracer.where, **fields))


def _open_layer(tracer: Tracer, inputs: Tensor, weight: Tensor, kinds: tuple[type, ...], channel_dim: int) -> Tensor | None:
    """Return the input's channel atoms, or None (and freeze them) where this use of the weight cannot be followed."""
    labels = tracer.labels(inputs)
    if tracer.owner(weight) is None or not isinstance(tracer.stack[-1][1], kinds):
        tracer.atoms.freeze(labels, f"{tracer.where}: uses a weight outside the layer that owns it")
        return None
    atoms = vector(labels, channel_dim)
    if atoms is None:
        tracer.atoms.freeze(labels, f"{tracer.where}: its input channels are not one dimension")
    return atoms


def _fresh(tracer: Tracer, weight: Tensor, dim: int, count: int) -> Tensor:
    earlier = tracer.tied(weight, dim)
    return tracer.atoms.new(count) if earlier is None else earlier


def _couple_groups(tracer: Tracer, inputs: Tensor, outputs: Tensor, groups: int) -> None:
    """A convolution's group leaves whole: its input and output channels are one decision."""
    joined = torch.cat([inputs.reshape(groups, -1), outputs.reshape(groups, -1)], 1)
    tracer.atoms.unite(joined, joined[:, -1:].expand_as(joined))
    tracer.atoms.freeze(joined[(joined == 0).any(1)], f"{tracer.where}: groups channels with values of no channel")


def _convolution(transposed: bool, spatial: int) -> Rule:
    def rule(
        tracer: Tracer,
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        groups = int(kwargs.get("groups", args[3] if len(args) > 3 else 1))
        channel_dim = input.dim() - spatial - 1
        atoms = _open_layer(tracer, input, weight, (nn.modules.conv._ConvNd,), channel_dim)
        if atoms is None:
            return
        out_channels = output.shape[channel_dim]
        out_dim = 1 if transposed else 0
        in_dim = 1 - out_dim
        positions = math.prod((input if transposed else output).shape[channel_dim + 1 :])
        kernel = math.prod(weight.shape[2:])
        if groups == 1:
            outputs = _fresh(tracer, weight, out_dim, out_channels)
            tracer.tie(weight, in_dim, atoms)
            tracer.tie(weight, out_dim, outputs)
            macs = float(positions * kernel)
        else:
            outputs = tracer.atoms.new(out_channels)
            tracer.tie(weight, 0, atoms if transposed else outputs)
            _couple_groups(tracer, atoms, outputs, groups)
            macs = float(positions * kernel * len(atoms) / groups)
        tracer.tie(bias, 0, outputs)
        if out_channels == 1:
            tracer.atoms.freeze(outputs, f"{tracer.where}: has a single output channel")
            tracer.set_labels(output, torch.zeros((), dtype=torch.int64).expand(output.shape))
        else:
            tracer.set_labels(output, along(outputs, channel_dim, output.shape))
        kind = "conv_transpose" if transposed else "conv"
        _record(
            tracer,
            kind=kind,
            inputs=atoms,
            outputs=outputs,
            macs=macs,
            groups=groups,
            channel_dim=channel_dim - input.dim(),
        )

    return rule


def _linear(tracer: Tracer, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    atoms = _open_layer(tracer, input, weight, (nn.Linear,), input.dim() - 1)
    if atoms is None:
        return
    outputs = _fresh(tracer, weight, 0, output.shape[-1])
    tracer.tie(weight, 1, atoms)
    tracer.tie(weight, 0, outputs)
    tracer.tie(bias, 0, outputs)
    if len(outputs) == 1:
        tracer.atoms.freeze(outputs, f"{tracer.where}: has a single output")
        tracer.set_labels(output, torch.zeros((), dtype=torch.int64).expand(output.shape))
    else:
        tracer.set_labels(output, along(outputs, output.dim() - 1, output.shape))
    positions = float(math.prod(output.shape[:-1]))
    _record(tracer, kind="linear", inputs=atoms, outputs=outputs, macs=positions, channel_dim=-1)


def _norm_atoms(tracer: Tracer, input: Tensor, channel_dim: int, kinds: tuple[type, ...]) -> Tensor | None:
    labels = tracer.labels(input)
    atoms = vector(labels, channel_dim)
    if atoms is None:
        tracer.atoms.freeze(labels, f"{tracer.where}: normalizes over more than the channels")
        return None
    if not tracer.stack or not isinstance(tracer.stack[-1][1], kinds):
        tracer.atoms.freeze(labels, f"{tracer.where}: normalizes outside a layer that is known")
        return None
    return atoms


def _module_channel_dim(tracer: Tracer, fallback: int) -> int:
    entered = tracer.stack[-1][2]
    wide = varying(tracer.labels(entered)) if entered is not None else []
    return wide[0] - entered.dim() if entered is not None and len(wide) == 1 else fallback


def _batch_norm(
    tracer: Tracer,
    output: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    atoms = _norm_atoms(tracer, input, 1, (nn.modules.batchnorm._NormBase,))
    if atoms is None:
        return
    for tensor in (weight, bias, running_mean, running_var):
        tracer.tie(tensor, 0, atoms)
    tracer.set_labels(output, along(atoms, 1, output.shape))
    _record(tracer, kind="norm", inputs=atoms, outputs=atoms, channel_dim=1 - input.dim())


def _instance_norm(
    tracer: Tracer,
    output: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    _batch_norm(tracer, output, input, running_mean, running_var, weight, bias)


def _layer_norm(
    tracer: Tracer,
    output: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    if len(normalized_shape) != 1:
        tracer.atoms.freeze(tracer.labels(input), f"{tracer.where}: normalizes over more than the channels")
        return
    atoms = _norm_atoms(tracer, input, input.dim() - 1, (nn.LayerNorm, nn.RMSNorm))
    if atoms is None:
        return
    tracer.tie(weight, 0, atoms)
    tracer.tie(bias, 0, atoms)
    tracer.set_labels(output, along(atoms, output.dim() - 1, output.shape))
    _record(tracer, kind="layer_norm", inputs=atoms, outputs=atoms, channel_dim=_module_channel_dim(tracer, -1))


def _group_norm(
    tracer: Tracer,
    output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    atoms = _norm_atoms(tracer, input, 1, (nn.GroupNorm,))
    if atoms is None:
        return
    tracer.tie(weight, 0, atoms)
    tracer.tie(bias, 0, atoms)
    if num_groups > 1:
        _couple_groups(tracer, atoms, atoms, num_groups)
    tracer.set_labels(output, along(atoms, 1, output.shape))
    _record(tracer, kind="group_norm", inputs=atoms, outputs=atoms, groups=num_groups, channel_dim=1 - input.dim())


LAYER_RULES: dict[Any, Rule] = {
    torch.conv1d: _convolution(False, 1),
    torch.conv2d: _convolution(False, 2),
    torch.conv3d: _convolution(False, 3),
    torch.conv_transpose1d: _convolution(True, 1),
    torch.conv_transpose2d: _convolution(True, 2),
    torch.conv_transpose3d: _convolution(True, 3),
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _layer_norm,
    F.group_norm: _group_norm,
}

OPAQUE_FUNCTIONS = frozenset({F.multi_head_attention_forward, F.embedding, F.bilinear, F.scaled_dot_product_attention})
