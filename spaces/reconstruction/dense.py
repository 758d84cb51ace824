"""Outputs of a dense network that smaller ones are solved against, drawn once for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spaces.execution.batch import BatchError, Nested, count_samples, join, map_tensors, select
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, call
from spaces.execution.randomness import kept_randomness, seed_of
from spaces.layers.activation_memory import peak_bytes, watched_memory
from spaces.layers.split_attention import split_form
from spaces.reconstruction.kept import KeptOutput
from spaces.reconstruction.passage import Call
from spaces.reconstruction.passes import DensePass, Target, calls_of
from spaces.reconstruction.settings import ReconstructionSettings
from spaces.reconstruction.structure import SharedWeight, linear_maps, solved_weights

AT_ONCE = 640 * 2**20
"""Most bytes of the dense network's activations up to which all samples are one batch, on a CPU."""

AT_ONCE_ON_ACCELERATOR = 2 * 2**30
"""The same on a device with memory of its own, where 192 images of 224 pixels through a ResNet-50 fit."""

IN_PARTS = 128 * 2**20
"""Most bytes of the dense network's activations in a batch where all samples are too many for one."""

MOST_BYTES = 256 * 2**20
"""Most bytes of dense outputs that are held at a time."""


@dataclass(frozen=True)
class _Drawn:
    """Outputs of a call in one batch, and how they were drawn: number of positions, seed, True for those of a sum."""

    drawn: tuple[int, int, bool]
    target: Target


class DenseOutputs:
    """The samples of a reconstruction, and the dense network's outputs on them at drawn positions, all channels.

    Outputs are drawn when they are asked for first, and held as far as :data:`MOST_BYTES` allow: all smaller networks of a
    search that share this object, and thereby samples and positions, cost one pass of the dense network together.

    Args:
        model: The network that channels are cut from; left unchanged.
        batches: Input batches on its device; their samples beyond ``settings.images`` are not used.
        forward: How networks are run on a batch.
        settings: Options of the reconstructions.
        seed: Seed of the positions.

    Attributes:
        batches: The samples, in a single batch if they are of one shape and their activations fit :func:`at_once`.
        samples: Number of samples.
        maps: The linear layers of ``model``, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Nested],
        forward: Forward = call,
        settings: ReconstructionSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.forward, self.seed = split_form(model), forward, seed
        self.settings = ReconstructionSettings() if settings is None else settings
        self.maps = linear_maps(self.model)
        used = list(_first(batches, self.settings.images))
        self.samples = sum(map(count_samples, used))
        self.batches: list[Nested] = []
        if used:
            device = next(model.parameters()).device
            self.batches = _fitting(used, activation_bytes(self.model, select(used[0], 0, 1), forward), at_once(device))
        self._known: dict[tuple[Call, int], _Drawn] = {}
        self._weights: tuple[SharedWeight, ...] | None = None

    def weights(self, small: nn.Module) -> tuple[SharedWeight, ...]:
        """Return the weights of a smaller network that can be solved against these outputs, in the order of the forward pass.

        A network with the modules and parameters of the dense one, narrower or not, has its structure, which is traced once.

        Args:
            small: The smaller network; left unchanged.
        """
        if not self.batches:
            return ()
        if _names(small) != _names(self.model):
            return self._traced(small)
        if self._weights is None:
            self._weights = self._traced(self.model)
        return self._weights

    def _traced(self, model: nn.Module) -> tuple[SharedWeight, ...]:
        with kept_randomness():
            found = solved_weights(model, select(self.batches[0], 0, 1), self.forward, self.settings.sums)
        return tuple(one for one in found if all(layer.name in self.maps for layer in one.layers))

    def targets(self, weights: Sequence[SharedWeight], kept: Mapping[str, KeptOutput]) -> dict[tuple[Call, int], Target]:
        """Return the dense outputs that the layers with ``weights`` are compared with, by call and number of the batch.

        Args:
            weights: Weights of a smaller network.
            kept: Output channels that stay, by layer, where some have gone.
        """
        calls, sums = calls_of(weights)
        drawn = self._drawn(weights)
        missing = {one for one in drawn if not self._has(one, (*drawn[one], one[0] in sums))}
        if missing and sum(known.target.values.nbytes for known in self._known.values()) + self.bytes(weights) > MOST_BYTES:
            self._known, missing = {}, set(drawn)
        for number, batch in enumerate(self.batches):
            wanted = {one: drawn[one, number] for one in calls if (one, number) in missing}
            if wanted:
                passage = DensePass(self.model, self.maps, wanted, sums)
                with kept_randomness():
                    torch.manual_seed(self.seed + number)
                    passage.run(self.forward, batch)
                for one, target in passage.targets.items():
                    self._known[one, number] = _Drawn((*wanted[one], one in sums), target)
        found = {one: self._known[one].target for one in drawn if one in self._known}
        return {one: replace(target, kept=kept.get(one[0].layer)) for one, target in found.items()}

    def bytes(self, weights: Sequence[SharedWeight]) -> int:
        """Return the largest number of bytes that :meth:`targets` of ``weights`` take."""
        return sum(
            4 * self.maps[layer.name].outputs * min(self.settings.positions, self.samples * sum(layer.positions))
            for weight in weights
            for layer in weight.layers
        )

    def _has(self, one: tuple[Call, int], drawn: tuple[int, int, bool]) -> bool:
        return one in self._known and self._known[one].drawn == drawn

    def _drawn(self, weights: Sequence[SharedWeight]) -> dict[tuple[Call, int], tuple[int, int]]:
        """Return, by call and batch, the number of positions to draw and the seed to draw them with."""
        found = {}
        for weight in weights:
            most = math.ceil(self.settings.positions / (len(self.batches) * len(weight.calls)))
            for one in weight.calls:
                for number in range(len(self.batches)):
                    found[one, number] = most, seed_of(f"{self.seed}/{one.layer}/{one.number}/{number}")
        return found


def _names(model: nn.Module) -> tuple[dict[str, type[nn.Module]], list[str]]:
    """Return the modules, with their types, and the names of the parameters."""
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return {name: type(module) for name, module in model.named_modules()}, parameters


@torch.no_grad()
def activation_bytes(model: nn.Module, sample: Nested, forward: Forward) -> float:
    """Return the most bytes of activations that live together in a forward pass over a batch of one sample."""
    alone = map_tensors(Tensor.clone, sample)  # A view would count with all that it is a view of.
    with kept_randomness(), evaluation_mode(model), watched_memory(model) as memory:
        forward(model, alone)
    return peak_bytes(memory.activations)


def at_once(device: torch.device) -> int:
    """Return the most bytes of the dense network's activations up to which all samples are one batch on a device."""
    return AT_ONCE if device.type == "cpu" else AT_ONCE_ON_ACCELERATOR


def _fitting(batches: list[Nested], bytes_of_one: float, most_at_once: int) -> list[Nested]:
    """Return the samples of batches as one batch, or as batches of as many as fit where that is too large or has no shape."""
    samples = sum(map(count_samples, batches))
    if samples * bytes_of_one <= most_at_once:
        try:
            return [join(batches)]
        except BatchError:
            pass
    most = max(1, int(IN_PARTS // max(1.0, bytes_of_one)))
    return [
        select(batch, start, min(start + most, count))
        for batch in batches
        for count in [count_samples(batch)]
        for start in range(0, count, most)
    ]


def _first(batches: Sequence[Nested], samples: int) -> Iterator[Nested]:
    """Yield the first ``samples`` samples of batches."""
    for batch in batches:
        if samples <= 0:
            return
        count = count_samples(batch)
        yield batch if count <= samples else select(batch, 0, samples)
        samples -= count
