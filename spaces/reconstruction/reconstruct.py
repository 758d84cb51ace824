"""Closed-loop reconstruction: the layers of a smaller network solved one after the other against the dense network's outputs.

Every layer's inputs are those of the small network as it is by then, its targets the dense layer's outputs on the same samples,
cut to the channels that are kept, so that later layers make up for what earlier ones have lost (He, Zhang, Sun, ICCV 2017,
arXiv 1707.06168, section 3.2). The solution is a ridge regression towards the present weights; the last layer of a branch is
solved for the sum that the branch is added into (ours). Statistics of normalizations stay those of the dense network.

Where all samples fit into one batch (:func:`spaces.reconstruction.dense.at_once`), a single forward pass of the small network
solves it: each layer is solved when it is called, or at the sum that its output ends in, and hands on its corrected output.
Else, and for a layer that is called several times, each step runs the small network from its inputs up to the layer, so that
time grows with the square of the depth. Memory holds the activations of one batch, the second moments of one layer and
:data:`spaces.reconstruction.dense.MOST_BYTES` of dense outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from spaces.channels.surgery import Cut
from spaces.execution.randomness import kept_randomness
from spaces.layers.batch_norm import keep_statistics
from spaces.reconstruction.dense import MOST_BYTES, DenseOutputs
from spaces.reconstruction.kept import KeptOutput, kept_outputs
from spaces.reconstruction.moments import Moments, least_squares
from spaces.reconstruction.passage import Call
from spaces.reconstruction.passes import Meeting, SmallPass, Target, calls_of
from spaces.reconstruction.structure import SharedWeight, SolvedLayer, linear_maps

LARGEST = 4608
"""Most columns that are solved at once; a wider matrix is solved in blocks of columns, one after the other."""


@dataclass(frozen=True)
class LayerFit:
    """The solution of one layer, or of one block of its columns.

    Attributes:
        layer: Name of the layer.
        before: Mean squared residual of its outputs before, summed over channels.
        after: The same with the solved weight, on the same positions.
    """

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class _Step:
    """A block of columns of a weight."""

    weight: SharedWeight
    columns: slice


class Reconstruction:
    """The layers of a small network, to be solved in the order of the forward pass.

    Args:
        dense: The dense network's outputs, which several reconstructions may share.
        small: The network that is smaller by some channels, on the same device; :meth:`solve` changes it in place.
        kept: Output channels that stay, by dense layer, where some have gone.
        without: Names of parts whose layers stay as they are.
    """

    def __init__(
        self, dense: DenseOutputs, small: nn.Module, kept: Mapping[str, KeptOutput], without: Collection[str] = ()
    ) -> None:
        self._dense, self._small, self._kept = dense, small, kept
        self._maps = linear_maps(small)
        weights = [one for one in dense.weights(small) if not any(_inside(layer.name, without) for layer in one.layers)]
        self._passes, self._windows = list(self._planned(weights)), self._windowed(weights)

    def __len__(self) -> int:
        """Return the number of solutions."""
        return sum(map(len, self._passes))

    def solve(self, done: int = 0, told: Callable[[LayerFit], None] = lambda fit: None) -> Iterator[list[LayerFit]]:
        """Solve pass by pass, in place; yield what each pass has done.

        Args:
            done: Passes that the small network has behind it already.
            told: Takes every solution when it is found.
        """
        for steps in self._passes[done:]:
            yield self._run(steps, told)
        keep_statistics(self._small)

    def _planned(self, weights: Sequence[SharedWeight]) -> Iterator[list[_Step]]:
        """Yield the steps of each pass: as many as the dense outputs allow, or one that needs its pass for itself."""
        together: list[_Step] = []
        for weight in weights:
            steps = [_Step(weight, columns) for columns in _blocks(self._maps[weight.name].columns)]
            alone = self._alone(weight)
            if together and (alone or self._dense.bytes([*(step.weight for step in together), weight]) > MOST_BYTES):
                yield together
                together = []
            if alone:
                yield from ([step] for step in steps)
            else:
                together += steps
        if together:
            yield together

    def _windowed(self, weights: Sequence[SharedWeight]) -> dict[str, list[SharedWeight]]:
        """Return, by weight, the weights whose dense outputs are drawn in one pass with its own, as many as are held."""
        found: dict[str, list[SharedWeight]] = {}
        window: list[SharedWeight] = []
        for weight in weights:
            if self._dense.bytes([*window, weight]) > MOST_BYTES:
                window = []
            window.append(weight)
            found[weight.name] = window
        return found

    def _alone(self, weight: SharedWeight) -> bool:
        """Return True for a weight whose solution needs more than one call."""
        return len(self._dense.batches) > 1 or len(weight.calls) > 1

    def _run(self, steps: Sequence[_Step], told: Callable[[LayerFit], None]) -> list[LayerFit]:
        """Take the steps of one pass."""
        alone = self._alone(steps[0].weight)
        weights = self._windows[steps[0].weight.name] if alone else [step.weight for step in steps]
        targets = self._dense.targets(weights, self._kept)
        fits: list[LayerFit] = []

        def fit(step: _Step, moments: Mapping[str, Moments], meeting: Meeting | None = None) -> None:
            fits.append(self._solved(step, moments, meeting))
            told(fits[-1])

        def solve(meeting: Meeting) -> None:
            for step in steps:
                if meeting.call in step.weight.calls:
                    moments = self._moments(step)
                    meeting.add_to(moments[meeting.call.layer], step.columns)
                    fit(step, moments, meeting)

        if not alone:
            self._meet(0, steps, targets, solve)
            return fits
        (step,) = steps
        moments = self._moments(step)
        for number in range(len(self._dense.batches)):
            self._meet(number, steps, targets, lambda meeting: meeting.add_to(moments[meeting.call.layer], step.columns))
        fit(step, moments)
        return fits

    def _meet(
        self,
        number: int,
        steps: Sequence[_Step],
        targets: Mapping[tuple[Call, int], Target],
        met: Callable[[Meeting], None],
    ) -> None:
        """Run the small network on a batch, up to the last of the steps."""
        calls, sums = calls_of([step.weight for step in steps])
        own = {one: targets[one, number] for one in calls if (one, number) in targets}
        with kept_randomness():
            torch.manual_seed(self._dense.seed + number)
            SmallPass(self._small, self._maps, own, sums, met).run(self._dense.forward, self._dense.batches[number])

    def _moments(self, step: _Step) -> dict[str, Moments]:
        """Return moments of a step's layers, of nothing yet."""
        found = {}
        for layer in step.weight.layers:
            one = self._maps[layer.name]
            width = len(range(*step.columns.indices(one.columns)))
            found[layer.name] = Moments(one.groups, width, one.outputs, layer.shift != "none", one.weight.device)
        return found

    @torch.no_grad()
    def _solved(self, step: _Step, moments: Mapping[str, Moments], meeting: Meeting | None) -> LayerFit:
        """Change a weight to the solution, let biases and norms take up the means, and correct what waits for it."""
        change, before, after = least_squares(list(moments.values()), self._dense.settings.damping)
        if after < before:
            one = self._maps[step.weight.name]
            matrices, old = one.matrices(one.weight.detach()).double(), one.weight.detach().clone()
            matrices[:, :, step.columns] += change
            one.weight.copy_(one.weights(matrices))
            for layer in step.weight.layers:
                shift = self._shift(layer, change, moments[layer.name])
                if meeting is not None:
                    meeting.correct(one.weight - old, shift)
        return LayerFit(step.weight.name, before, after)

    def _shift(self, layer: SolvedLayer, change: Tensor, moments: Moments) -> Tensor | None:
        """Give a layer's bias, or the norm behind it, the shift that belongs to a change, and return it; None for no taker."""
        inputs, residuals = moments.means
        shift = (residuals - (change @ inputs[:, :, None])[:, :, 0]).flatten()
        bias = self._maps[layer.name].bias
        if bias is not None:
            bias.add_(shift.to(bias))
        elif layer.shift == "norm":
            mean = self._small.get_buffer(layer.norm)
            mean.sub_(shift.to(mean))
        else:
            return None
        return shift


def closed_loop(dense: DenseOutputs, before: Sequence[Cut] = ()) -> Callable[[nn.Module, Cut], None]:
    """Return what solves the layers of any smaller network of ``dense``, in place, for ``SearchSpace.reconstruct``.

    A search measures its candidates with it so::

        outputs = DenseOutputs(model, batches, task.forward, ReconstructionSettings(images=192, positions=12000), seed)
        network = space.reconstruct(model, candidate, closed_loop(outputs))

    The first candidate draws the dense outputs, the others find them there.

    Args:
        dense: The dense network's outputs.
        before: Cuts between that network and the one that the smaller ones are cut from, in order.
    """

    def solve(small: nn.Module, cut: Cut) -> None:
        for _ in Reconstruction(dense, small, kept_outputs(dense.model, [*before, cut])).solve():
            pass

    return solve


def _inside(layer: str, parts: Collection[str]) -> bool:
    """Return True for the name of a layer in one of the named parts."""
    return any(layer == part or layer.startswith(f"{part}.") for part in parts)


def _blocks(columns: int) -> list[slice]:
    """Return the blocks of columns that are solved one after the other, of about the same width."""
    count = math.ceil(columns / LARGEST)
    edges = [round(columns * place / count) for place in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]
