"""Layer rules: how the layers with weights tie their weights to the channels they read and write."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.channel_trace import LayerTrace
from spaces.channels.label_tracker import LabelTracker
from spaces.channels.labels import along, varying, vector

Rule = Callable[..., None]


def _record(tracker: LabelTracker, **fields: Any) -> None:
    tracker.trace.layers.append(LayerTrace(name=tracker.where, **fields))


def _open_layer(
    tracker: LabelTracker, inputs: Tensor, weight: Tensor, kinds: tuple[type, ...], channel_dim: int
) -> Tensor | None:
    """Return the input's channel atoms, or None (and freeze them) where this use of the weight cannot be followed."""
    labels = tracker.labels(inputs)
    if tracker.owner(weight) is None or not isinstance(tracker.stack[-1][1], kinds):
        tracker.atoms.freeze(labels, f"{tracker.where}: uses a weight outside the layer that owns it")
        return None
    atoms = vector(labels, channel_dim)
    if atoms is None:
        tracker.atoms.freeze(labels, f"{tracker.where}: its input channels are not one dimension")
    return atoms


def _fresh(tracker: LabelTracker, weight: Tensor, dim: int, count: int) -> Tensor:
    earlier = tracker.tied(weight, dim)
    return tracker.atoms.new(count) if earlier is None else earlier


def _couple_groups(tracker: LabelTracker, inputs: Tensor, outputs: Tensor, groups: int) -> None:
    """Unite the input and output channels of each of the layer's groups, since a group leaves whole."""
    joined = torch.cat([inputs.reshape(groups, -1), outputs.reshape(groups, -1)], 1)
    tracker.atoms.unite(joined, joined[:, -1:].expand_as(joined))
    tracker.atoms.freeze(joined[(joined == 0).any(1)], f"{tracker.where}: groups channels with values of no channel")


def _convolution(transposed: bool, spatial: int) -> Rule:
    def rule(
        tracker: LabelTracker,
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        groups = int(kwargs.get("groups", args[3] if len(args) > 3 else 1))
        channel_dim = input.dim() - spatial - 1
        atoms = _open_layer(tracker, input, weight, (nn.modules.conv._ConvNd,), channel_dim)
        if atoms is None:
            return
        out_channels = output.shape[channel_dim]
        out_dim = 1 if transposed else 0
        in_dim = 1 - out_dim
        positions = math.prod((input if transposed else output).shape[channel_dim + 1 :])
        kernel = math.prod(weight.shape[2:])
        if groups == 1:
            outputs = _fresh(tracker, weight, out_dim, out_channels)
            tracker.tie(weight, in_dim, atoms)
            tracker.tie(weight, out_dim, outputs)
            macs = float(positions * kernel)
        else:
            outputs = tracker.atoms.new(out_channels)
            tracker.tie(weight, 0, atoms if transposed else outputs)
            _couple_groups(tracker, atoms, outputs, groups)
            macs = float(positions * kernel * len(atoms) / groups)
        tracker.tie(bias, 0, outputs)
        if out_channels == 1:
            tracker.atoms.freeze(outputs, f"{tracker.where}: has a single output channel")
            tracker.set_labels(output, torch.zeros((), dtype=torch.int64).expand(output.shape))
        else:
            tracker.set_labels(output, along(outputs, channel_dim, output.shape))
        kind = "conv_transpose" if transposed else "conv"
        _record(
            tracker,
            kind=kind,
            inputs=atoms,
            outputs=outputs,
            macs=macs,
            groups=groups,
            channel_dim=channel_dim - input.dim(),
        )

    return rule


def _linear(tracker: LabelTracker, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    atoms = _open_layer(tracker, input, weight, (nn.Linear,), input.dim() - 1)
    if atoms is None:
        return
    outputs = _fresh(tracker, weight, 0, output.shape[-1])
    tracker.tie(weight, 1, atoms)
    tracker.tie(weight, 0, outputs)
    tracker.tie(bias, 0, outputs)
    if len(outputs) == 1:
        tracker.atoms.freeze(outputs, f"{tracker.where}: has a single output")
        tracker.set_labels(output, torch.zeros((), dtype=torch.int64).expand(output.shape))
    else:
        tracker.set_labels(output, along(outputs, output.dim() - 1, output.shape))
    positions = float(math.prod(output.shape[:-1]))
    _record(tracker, kind="linear", inputs=atoms, outputs=outputs, macs=positions, channel_dim=-1)


def _norm_atoms(tracker: LabelTracker, input: Tensor, channel_dim: int, kinds: tuple[type, ...]) -> Tensor | None:
    labels = tracker.labels(input)
    atoms = vector(labels, channel_dim)
    if atoms is None:
        tracker.atoms.freeze(labels, f"{tracker.where}: normalizes over more than the channels")
        return None
    if not tracker.stack or not isinstance(tracker.stack[-1][1], kinds):
        tracker.atoms.freeze(labels, f"{tracker.where}: normalizes outside a layer that is known")
        return None
    return atoms


def _module_channel_dim(tracker: LabelTracker, fallback: int) -> int:
    entered = tracker.stack[-1][2]
    wide = varying(tracker.labels(entered)) if entered is not None else []
    return wide[0] - entered.dim() if entered is not None and len(wide) == 1 else fallback


def _batch_norm(
    tracker: LabelTracker,
    output: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    atoms = _norm_atoms(tracker, input, 1, (nn.modules.batchnorm._NormBase,))
    if atoms is None:
        return
    for tensor in (weight, bias, running_mean, running_var):
        tracker.tie(tensor, 0, atoms)
    tracker.set_labels(output, along(atoms, 1, output.shape))
    _record(tracker, kind="norm", inputs=atoms, outputs=atoms, channel_dim=1 - input.dim())


def _instance_norm(
    tracker: LabelTracker,
    output: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    _batch_norm(tracker, output, input, running_mean, running_var, weight, bias)


def _layer_norm(
    tracker: LabelTracker,
    output: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    if len(normalized_shape) != 1:
        tracker.atoms.freeze(tracker.labels(input), f"{tracker.where}: normalizes over more than the channels")
        return
    atoms = _norm_atoms(tracker, input, input.dim() - 1, (nn.LayerNorm, nn.RMSNorm))
    if atoms is None:
        return
    tracker.tie(weight, 0, atoms)
    tracker.tie(bias, 0, atoms)
    tracker.set_labels(output, along(atoms, output.dim() - 1, output.shape))
    _record(tracker, kind="layer_norm", inputs=atoms, outputs=atoms, channel_dim=_module_channel_dim(tracker, -1))


def _group_norm(
    tracker: LabelTracker,
    output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    atoms = _norm_atoms(tracker, input, 1, (nn.GroupNorm,))
    if atoms is None:
        return
    tracker.tie(weight, 0, atoms)
    tracker.tie(bias, 0, atoms)
    if num_groups > 1:
        _couple_groups(tracker, atoms, atoms, num_groups)
    tracker.set_labels(output, along(atoms, 1, output.shape))
    _record(tracker, kind="group_norm", inputs=atoms, outputs=atoms, groups=num_groups, channel_dim=1 - input.dim())


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
