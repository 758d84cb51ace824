"""Time and memory of a reconstruction, estimated from one sample before it is run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from spaces.execution.batch import Nested, repeat
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward
from spaces.execution.randomness import kept_randomness
from spaces.reconstruction.dense import IN_PARTS, MOST_BYTES, activation_bytes, at_once
from spaces.reconstruction.moments import ENTRIES
from spaces.reconstruction.reconstruct import LARGEST
from spaces.reconstruction.settings import ReconstructionSettings
from spaces.reconstruction.structure import linear_maps, solved_weights

BATCH = 8
"""Samples of the batch by which the speed of the network is measured."""

SIZE = 512
"""Rows and columns of the matrices by which the speed of products is measured."""


@dataclass(frozen=True)
class Estimate:
    """Estimated costs of one reconstruction.

    Attributes:
        seconds: Time on this machine, as loaded as it is now.
        bytes: Memory beside the networks and the samples.
        passes: Forward passes over all samples, each counted as a whole one.
        fitting: Most samples that a single pass solves on; beyond it every layer takes one.
    """

    seconds: float
    bytes: float
    passes: float
    fitting: int


@torch.no_grad()
def estimate(model: nn.Module, sample: Nested, forward: Forward, settings: ReconstructionSettings, samples: int) -> Estimate:
    """Return an upper estimate of the costs of solving every layer of ``model``, as if nothing had been cut.

    Args:
        model: The network; left unchanged.
        sample: A batch of a single sample on its device.
        forward: Runs the network on it.
        settings: Options of the reconstruction.
        samples: Number of samples that there are.
    """
    images = min(samples, settings.images)
    with kept_randomness():
        weights = solved_weights(model, sample, forward, settings.sums)
    maps, of_one = linear_maps(model), activation_bytes(model, sample, forward)
    device = next(model.parameters()).device
    fitting = int(at_once(device) // max(1.0, of_one))
    products, squares, targets, alone = 0.0, 0.0, 0.0, 0
    for weight in weights:
        layer = maps[weight.name]
        rows = min(settings.positions, images * sum(sum(one.positions) for one in weight.layers))
        columns = min(layer.columns, LARGEST)
        products += layer.groups * rows * layer.columns * (columns + layer.outputs / layer.groups)
        squares = max(squares, 8.0 * layer.groups * columns**2)
        targets += 4.0 * rows * layer.outputs
        alone += len(weight.calls) > 1
    steps = len(weights) if images > fitting else alone
    # A dense pass for every window of targets, and a pass of the network and of its corrections.
    passes = 2.0 + max(1.0, targets / MOST_BYTES) + steps

    several = repeat(sample, BATCH)

    def run() -> None:
        with kept_randomness(), evaluation_mode(model):
            forward(model, several)

    matrix = torch.ones(SIZE, SIZE, device=device)
    seconds = passes * images * _seconds(run) / BATCH + products / SIZE**3 * _seconds(lambda: matrix @ matrix)
    held = images * of_one if images <= fitting else min(images * of_one, IN_PARTS)
    return Estimate(seconds, held + min(targets, MOST_BYTES) + 3.0 * squares + 8.0 * ENTRIES, passes, fitting)


def _seconds(run: Callable[[], object]) -> float:
    """Return the shorter of two times that ``run`` takes."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)
