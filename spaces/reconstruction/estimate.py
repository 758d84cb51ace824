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
from spaces.reconstruction.block_fit import BATCH as BLOCK_BATCH
from spaces.reconstruction.block_fit import HELD_BYTES
from spaces.reconstruction.blocks import find_blocks
from spaces.reconstruction.dense import IN_PARTS, MOST_BYTES, activation_bytes, at_once
from spaces.reconstruction.moments import ENTRIES
from spaces.reconstruction.reconstruct import LARGEST
from spaces.reconstruction.settings import ReconstructionSettings
from spaces.reconstruction.structure import linear_maps, solved_weights

BATCH = 8
"""Samples of the batch by which the speed of the network is measured."""

THRICE = 3.0
"""Time of a pass forward and backward, in passes forward."""

SIZE = 512
"""Rows and columns of the matrices by which the speed of products is measured."""


@dataclass(frozen=True)
class Estimate:
    """Estimated costs of one reconstruction.

    Attributes:
        seconds: Time on this machine, as loaded as it is now.
        bytes: Memory beside the networks and the samples.
        passes: Forward passes over all samples, of either network, each counted as a whole one.
        fitting: Most samples that a single pass solves on; beyond it every layer takes one.
        blocks: Number of blocks that are trained.
    """

    seconds: float
    bytes: float
    passes: float
    fitting: int
    blocks: int = 0


@torch.no_grad()
def estimate(
    dense: nn.Module, small: nn.Module, sample: Nested, forward: Forward, settings: ReconstructionSettings, samples: int
) -> Estimate:
    """Return the costs of solving every layer of ``small`` against the outputs of ``dense``.

    Memory is that of layers from which nothing was cut, so that it holds for any smaller network.

    Args:
        dense: The network that channels are cut from; left unchanged.
        small: A network with as many channels as those that will be solved; left unchanged.
        sample: A batch of a single sample on the device of both.
        forward: Runs a network on it.
        settings: Options of the reconstruction.
        samples: Number of samples that there are.
    """
    images = min(samples, settings.images)
    with kept_randomness():
        weights = solved_weights(small, sample, forward, settings.sums)
    whole, maps, of_one = linear_maps(dense), linear_maps(small), activation_bytes(dense, sample, forward)
    device = next(dense.parameters()).device
    fitting = int(at_once(device) // max(1.0, of_one))
    products, squares, targets, alone = 0.0, 0.0, 0.0, 0
    for weight in weights:
        layer, uncut = maps[weight.name], whole.get(weight.name, maps[weight.name])
        rows = min(settings.positions, images * sum(sum(one.positions) for one in weight.layers))
        columns = min(layer.columns, LARGEST)
        products += layer.groups * rows * layer.columns * (columns + layer.outputs / layer.groups)
        squares = max(squares, 8.0 * uncut.groups * min(uncut.columns, LARGEST) ** 2)
        targets += 4.0 * rows * uncut.outputs
        alone += len(weight.calls) > 1
    steps = len(weights) if images > fitting else alone
    # A dense pass for every window of targets; a pass of the smaller network, and of its corrections.
    dense_passes, small_passes = max(1.0, targets / MOST_BYTES), 2.0 + steps
    several = repeat(sample, BATCH)

    def speed(model: nn.Module) -> float:
        """Return the seconds of a sample."""

        def run() -> None:
            with kept_randomness(), evaluation_mode(model):
                forward(model, several)

        return _seconds(run) / BATCH

    matrix = torch.ones(SIZE, SIZE, device=device)
    blocks = len(find_blocks(small, sample, forward)) if settings.steps else 0
    # A block reads the networks up to its end, half of them on average; all blocks together are at most the network, and a
    # step goes through its block forward and backward.
    dense_passes, small_passes = dense_passes + blocks / 2.0, small_passes + blocks / 2.0
    trained = THRICE * settings.steps * BLOCK_BATCH if blocks else 0.0
    networks = images * dense_passes * speed(dense) + (images * small_passes + trained) * speed(small)
    seconds = networks + products / SIZE**3 * _seconds(lambda: matrix @ matrix)
    held = images * of_one if images <= fitting else min(images * of_one, IN_PARTS)
    needed = held + min(targets, MOST_BYTES) + 3.0 * squares + 8.0 * ENTRIES
    needed += min(HELD_BYTES, images * of_one) if blocks else 0.0
    return Estimate(seconds, needed, dense_passes + small_passes, fitting, blocks)


def _seconds(run: Callable[[], object]) -> float:
    """Return the shorter of two times that ``run`` takes."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)
