"""Importance by the squared error that the layers which read a channel make without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.channels.groups import ChannelGroups, Group, Layer
from spaces.execution.hooks import first_tensor
from spaces.execution.randomness import drawn_places, seed_of
from spaces.importance.criterion import Criterion, CriterionOptions
from spaces.importance.removal_order import Reader, removal_losses
from spaces.importance.weights import L2Norm
from spaces.layers.linear_map import LinearMap
from spaces.reconstruction.reconstruct import LARGEST
from spaces.reconstruction.settings import ReconstructionSettings
from spaces.reconstruction.structure import is_linear, linear_maps

POSITIONS = 32768
"""Most output positions of a layer that its inputs are taken at (ours): seven times the columns of the largest."""

PER_BATCH = 8192
"""Most of them in one call (ours): 512 samples in batches of 128 fill :data:`POSITIONS`."""

PART = 512
"""Most columns of a part of a matrix of second moments, whose other half is copied (ours)."""

DAMPING = ReconstructionSettings.damping
"""Share of the mean diagonal that is added to the second moments, that of a reconstruction."""


class SecondOrder(Criterion):
    """Squared error of the layers that read a channel, in the order of removal by optimal brain surgeon.

    A channel's score is what is lost when all channels that matter less are gone with it, so that scores are shares of the
    readers' outputs and can be compared between groups. Readers are convolutions of one group and linear layers; depthwise
    layers, norms and activations belong to the channels that pass through them. A group without a reader, or whose readers are
    too wide, is ordered by the L2 norm of its filters (:attr:`fallbacks`), each with its share of the sum of squared norms.
    """

    few_samples = True

    def __init__(self, model: nn.Module, groups: ChannelGroups, options: CriterionOptions | None = None) -> None:
        super().__init__(model, groups, options)
        self._readers = _readers(model, groups)
        self._seen = {name: _Inputs(one.columns, one.weight.device) for name, (_, one) in self._readers.items()}
        self._handles: list[RemovableHandle] = []
        self._calls: dict[str, list[list[tuple[Tensor, Tensor]]]] = {}
        self._batch = 0

    @property
    def learns(self) -> bool:
        """True: inputs of the readers are taken from batches."""
        return True

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Names of the groups that are ordered by the L2 norm."""
        return tuple(group.name for group in self.groups.groups if not self._of(group))

    def begin(self, labels: Tensor | None) -> None:
        """Watch the inputs of the readers."""
        self._calls, self._parted = {name: [[]] for name in self._readers}, False
        self._handles = [
            one.module.register_forward_hook(self._hook(name), with_kwargs=True) for name, (_, one) in self._readers.items()
        ]

    def part(self, rows: int) -> None:
        """Watch the forward pass of the next ``rows`` samples of the batch."""
        for passes in self._calls.values() if self._parted else ():
            passes.append([])
        self._parted = True

    @torch.no_grad()
    def end(self) -> None:
        """Stop watching, and take in the inputs of the whole batch."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for name, passes in self._calls.items():
            # A layer may run several times in a pass: of each run, the parts of the batch come together.
            for calls in zip(*passes, strict=False):
                inputs, outputs = (self.gather(torch.cat(parts)) for parts in zip(*calls, strict=True))
                self._take(name, inputs, outputs)
        self._calls = {}
        self._batch += 1

    def _hook(self, name: str) -> Any:
        def see(module: nn.Module, args: Any, keywords: Any, output: Any) -> None:
            inputs = first_tensor(args, keywords)
            if inputs is not None and isinstance(output, Tensor) and self._seen[name].count < POSITIONS:
                self._calls[name][-1].append((inputs.detach(), output.detach()))

        return see

    def _take(self, name: str, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows of one run of a reader on the whole batch."""
        layer, seen = self._readers[name][1], self._seen[name]
        if seen.count >= POSITIONS or not is_linear(layer, inputs, outputs):
            return
        patches = layer.patches(inputs, outputs)
        shape = patches.shape[: outputs.dim() - 1]
        places = drawn_places(int(np.prod(shape)), PER_BATCH, seed_of(f"{name}/{self._batch}")).to(outputs.device)
        seen.add(layer.rows(patches[torch.unravel_index(places, shape)])[0])

    @torch.no_grad()
    def values(self) -> Tensor:
        """Return the losses of :func:`.removal_losses`, float64 of shape ``(groups.width,)``."""
        found = torch.zeros(self.groups.width, dtype=torch.float64, device=self.device)
        norms = L2Norm(self.model, self.groups, self.options).values()
        for group in self.groups.groups:
            block = slice(group.offset, group.offset + group.size)
            readers = self._of(group)
            found[block] = removal_losses(readers, group.size).to(found) if readers else _shares(norms[block])
        return found

    def _of(self, group: Group) -> list[Reader]:
        return [one for name in self._readers for one in self._reader(name, group)]

    def _reader(self, name: str, group: Group) -> Iterator[Reader]:
        """Yield the layer ``name`` as a reader of ``group``, unless it reads none of it, or its outputs never change."""
        layer, one = self._readers[name]
        units = self.groups.units_of(layer.inputs)
        owned = (units >= group.offset) & (units < group.offset + group.size)
        channels, inside = np.where(owned[:, 0], units[:, 0], units[:, 1]) - group.offset, owned.any(1)
        seen = self._seen[name]
        if not inside.any() or seen.count < 2:
            return
        moments = seen.covariance()
        weight = one.matrices(one.weight.detach())[0].double()
        deviation = float(((weight @ moments) * weight).sum())
        if deviation <= 0.0 or len(layer.inputs) == 0 or one.columns % len(layer.inputs):
            return
        taps = torch.arange(one.columns, device=weight.device).reshape(len(layer.inputs), -1)
        columns = tuple(
            taps[torch.from_numpy(np.flatnonzero(inside & (channels == place))).to(weight.device)].flatten()
            for place in range(group.size)
        )
        ridge = DAMPING * moments.diagonal().mean()
        damped = moments + ridge * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
        yield Reader(weight, damped, columns, deviation)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums over inputs so far."""
        return {f"{name}.{key}": tensor for name, seen in self._seen.items() for key, tensor in seen.state().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the sums that :meth:`state_dict` returned."""
        for name, seen in self._seen.items():
            seen.load({key: state[f"{name}.{key}"] for key in seen.state()})


def unread_groups(model: nn.Module, groups: ChannelGroups) -> tuple[str, ...]:
    """Return the names of the open groups that no reader reads, which are ordered by the L2 norm."""
    read = [layer.inputs for layer, _ in _readers(model, groups).values()]
    return tuple(one.name for one in groups.groups if not groups.touched(one, *read))


def _readers(model: nn.Module, groups: ChannelGroups) -> dict[str, tuple[Layer, LinearMap]]:
    """Return the layers that mix open channels, with their matrices, by name."""
    maps = linear_maps(model)
    found: dict[str, tuple[Layer, LinearMap]] = {}
    for layer in groups.layers:
        one = maps.get(layer.name)
        if one is not None and one.groups == 1 and (layer.inputs >= 0).any() and one.columns <= LARGEST:
            found[layer.name] = layer, one
    return found


class _Inputs:
    """First and second moments of the inputs of one layer, about a pivot."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self._pivot = torch.zeros(columns, dtype=torch.float64, device=device)
        self._first = torch.zeros_like(self._pivot)
        self._second = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Add rows of shape ``(n, columns)``."""
        if not self.count:
            self._pivot.copy_(rows.double().mean(0))
        wide = rows.dtype == torch.float64
        moved = rows - self._pivot if wide else rows.float() - self._pivot.float()
        self._first += moved.sum(0, dtype=torch.float64)
        _add_square(self._second, moved)
        self.count += len(rows)

    def covariance(self) -> Tensor:
        """Return the second moments about the means, float64 of shape ``(columns, columns)``."""
        mean = self._first / self.count
        return self._second / self.count - torch.outer(mean, mean)

    def state(self) -> dict[str, Tensor]:
        """Return the sums."""
        count = torch.tensor(self.count)
        return {"pivot": self._pivot.clone(), "first": self._first.clone(), "second": self._second.clone(), "count": count}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the sums of :meth:`state`."""
        self._pivot.copy_(state["pivot"])
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self.count = int(state["count"])


def _add_square(total: Tensor, rows: Tensor) -> None:
    """Add ``rows.T @ rows`` to ``total``, in place, each product of two parts of the columns once."""
    for first in range(0, rows.shape[1], PART):
        for second in range(0, first + 1, PART):
            product = (rows[:, first : first + PART].T @ rows[:, second : second + PART]).to(total.dtype)
            total[first : first + PART, second : second + PART] += product
            if second < first:
                total[second : second + PART, first : first + PART] += product.T


def _shares(norms: Tensor) -> Tensor:
    """Return, for every channel, the share of the sum of squared norms in those that are no larger than its own."""
    squares = norms.square()
    order = squares.argsort(stable=True)
    shares = torch.empty_like(squares)
    shares[order] = squares[order].cumsum(0) / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
    return shares
