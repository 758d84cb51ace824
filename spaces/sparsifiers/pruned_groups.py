"""Groups of weights that are pruned together: filters, input channels, or columns of the im2col matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups
from spaces.importance.criterion import averaged, places_on, writers
from spaces.layers.layer_kind import LayerKind
from spaces.patterns import reason_left_out, require_matches
from spaces.sparsifiers.masking import GroupTie, MaskedTensor
from spaces.sparsifiers.participation import PrunedLayer
from spaces.sparsifiers.random_masking import Draw

GroupKind = Literal["filters", "input_channels", "columns"]


def channel_layers(groups: ChannelGroups, numbers: np.ndarray) -> list[PrunedLayer]:
    """Return the coupled channel groups as layers, ``numbers`` of whose channels are to be pruned."""
    named = zip(groups.groups, numbers.tolist(), strict=True)
    return [PrunedLayer(group.name, group.offset, group.size, number) for group, number in named]


def channel_tensors(model: nn.Module, groups: ChannelGroups, kind: GroupKind, draw: Draw) -> list[MaskedTensor]:
    """Return the weights to mask: those that write coupled channels (``filters``) or those that read them.

    Whatever sits out at random, a channel that is gone takes all with it that writes or reads it, so that removing it changes
    nothing (but the statistics of a normalization over channels). One draw per group silences a filter's bias, scaling factor
    and shift as well; one draw per weight leaves these alone.
    """
    written = [(f"{name}.{tensor}", dim, places) for name, tensor, dim, places in writers(groups)]
    ties: dict[str, list[GroupTie]] = {}
    for own, along in (("filters", written), ("input_channels", list(_readers(groups)))):
        for name, dim, places in along:
            parameter = model.get_parameter(name)
            shape = [-1 if other == dim else 1 for other in range(parameter.dim())]
            drawn = own == kind and (parameter.dim() > 1 or draw == "group")
            ties.setdefault(name, []).append(GroupTie(places_on(parameter.device, places).reshape(shape), drawn))
    return [MaskedTensor(model.get_parameter(name), tuple(along)) for name, along in ties.items()]


def channel_scores(model: nn.Module, groups: ChannelGroups, order: int) -> Tensor:
    """Return the norm (1 or 2) of the weights that read each coupled channel, the mean over the layers that read it.

    Float64 of shape ``(groups.width,)``.
    """
    device = next(model.parameters()).device
    parts = []
    for name, dim, places in _readers(groups):
        rows = model.get_parameter(name).detach().movedim(dim, 0).reshape(len(places), -1)
        parts.append((places_on(device, places), torch.linalg.vector_norm(rows, ord=order, dim=1)))
    return averaged(groups, parts, device).nan_to_num(0.0)


def _readers(groups: ChannelGroups) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield the weights that read channels: tensor, dimension, mask positions along it."""
    seen: set[tuple[str, LayerKind]] = set()
    for layer in groups.layers:
        if (layer.name, layer.kind) in seen:
            continue
        seen.add((layer.name, layer.kind))
        for tensor, dim in layer.kind.readers(layer.groups):
            name = f"{layer.name}.{tensor}".lstrip(".")
            places = groups.ties.get(name, {}).get(dim)
            if places is not None:
                yield name, dim, places


class Columns:
    """The columns of every convolution's im2col matrix: for each input channel and kernel position the weights of all filters.

    Args:
        model: The network.
        layers: Name of every convolution, and how many of its columns are to be pruned.
    """

    def __init__(self, model: nn.Module, layers: list[tuple[str, int]]) -> None:
        self._weights = [model.get_parameter(f"{name}.weight") for name, _ in layers]
        self.layers: list[PrunedLayer] = []
        self.tensors: list[MaskedTensor] = []
        offset = 0
        for (name, number), weight in zip(layers, self._weights, strict=True):
            size = weight[0].numel()
            self.layers.append(PrunedLayer(name, offset, size, number))
            places = torch.arange(offset, offset + size, device=weight.device).reshape(1, *weight.shape[1:])
            self.tensors.append(MaskedTensor(weight, (GroupTie(places, drawn=True),)))
            offset += size

    @torch.no_grad()
    def scores(self, order: int) -> Tensor:
        """Return the norm (1 or 2) of every column, float64."""
        found = [torch.linalg.vector_norm(weight.detach().flatten(1), ord=order, dim=0) for weight in self._weights]
        return torch.cat(found).to(torch.float64)


def column_layers(model: nn.Module, include: tuple[str, ...], exclude: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return name and number of columns of the convolutions that have more than one and whose names are open.

    Raises:
        UnsupportedModelError: A pattern matches nothing.
    """
    require_matches((*include, *exclude), (name for name, _ in model.named_modules() if name))
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not reason_left_out(name, include, exclude):
            size = module.weight[0].numel()
            if size > 1:
                found.append((name, size))
    return found
