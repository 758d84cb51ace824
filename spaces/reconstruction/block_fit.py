"""Block-wise reconstruction: the blocks of a smaller network trained one after the other against the dense network's.

Behind the least squares of single layers, which know nothing of the nonlinearities between them, every block is trained for
some steps, so that its outputs on what the smaller network gives it by then are those of the dense block on what the dense
network gives that (Li et al., ICLR 2021, arXiv 2102.05426, section 3.2, who round weights so; here it is for removed channels).
No labels are read, statistics of normalizations stay. A block keeps its new weights only where they are nearer to the dense
outputs on held-back samples, and all blocks only where the network's outputs are (ours).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces.channels.surgery import Cut
from spaces.execution.batch import Nested, count_samples, select
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, tensors_in
from spaces.execution.randomness import kept_randomness, seed_of
from spaces.reconstruction.blocks import BlockCall, block_calls, find_blocks, trainable
from spaces.reconstruction.kept import KeptOutput, kept_of_parts

BATCH = 32
"""Most samples of a step (ours)."""

HELD_BACK = 4
"""One of so many batches is held back (ours)."""

HELD_BYTES = 512 * 2**20
"""Most bytes of a block's inputs and targets; what is beyond is not trained on."""

RATE = 0.03
"""Largest change of a parameter's entries in a step, relative to their root mean square (ours); it falls to 0 by a cosine."""

SMALLEST = 1e-2
"""Root mean square that parameters near 0, such as fresh biases, are taken to have at least (ours)."""


@dataclass(frozen=True)
class BlockFit:
    """The training of one block.

    Attributes:
        block: Name of the block.
        before: Squared difference to the dense outputs on held-back samples, as a share of their squares, before.
        after: The same with the trained weights; ``before`` where that is no number.
        kept: True where the trained weights were kept.
    """

    block: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True)
class OutputChange:
    """The difference of a smaller network's outputs to the dense one's on held-back samples, around the training of blocks.

    Attributes:
        before: Squared difference as a share of the squares of the dense outputs, before.
        after: The same behind it.
    """

    before: float
    after: float

    @property
    def kept(self) -> bool:
        """True where the outputs have come nearer."""
        return self.after < self.before


class BlockReconstruction:
    """The blocks of a small network, to be trained in the order in which they run.

    Args:
        dense: The network that channels are cut from; left unchanged.
        small: The network that is smaller by some channels, on the same device, its layers solved; changed in place.
        cuts: What has left ``small`` of ``dense``, one after the other.
        batches: Input batches on the device of both.
        forward: Runs a network on a batch.
        steps: Steps of each block.
        seed: Seed of the order of batches.

    Attributes:
        blocks: Names of the blocks that can be trained.
        steps: Steps of each.
        unmatched: Blocks that have no like in the dense network, whose outputs would be compared.
    """

    def __init__(
        self,
        dense: nn.Module,
        small: nn.Module,
        cuts: Sequence[Cut],
        batches: Sequence[Nested],
        forward: Forward,
        steps: int,
        seed: int,
    ) -> None:
        self._dense, self._small, self._forward, self.steps, self._seed = dense, small, forward, steps, seed
        self._solved = {name: tensor.clone() for name, tensor in small.state_dict().items()}
        self._batches = list(_parts(batches))
        found: tuple[str, ...] = ()
        self._kept: dict[str, KeptOutput | None] = {}
        if len(self._batches) >= HELD_BACK:
            sample = select(self._batches[0], 0, 1)
            found = find_blocks(small, sample, forward)
            if found:
                self._kept = kept_of_parts(dense, cuts, sample, forward, found)
        self.blocks = tuple(name for name in found if name in self._kept and self._alike(name))
        self.unmatched = tuple(name for name in found if name not in self.blocks)

    def __len__(self) -> int:
        """Return the number of steps of all blocks."""
        return len(self.blocks) * self.steps

    def solve(self, done: int = 0, told: Callable[[str, int], None] = lambda block, step: None) -> Iterator[BlockFit]:
        """Train block by block, in place; yield what came of each.

        Args:
            done: Blocks that the small network has behind it already.
            told: Takes the name of a block and the number of its steps so far.
        """
        for name in self.blocks[done:]:
            yield self._trained(name, lambda step, name=name: told(name, step))  # type: ignore[misc]

    def conclude(self) -> OutputChange:
        """Compare the network's outputs on held-back samples with those before, and undo all unless they are nearer."""
        trained = {name: tensor.clone() for name, tensor in self._small.state_dict().items()}
        after = self._difference()
        self._small.load_state_dict(self._solved)
        change = OutputChange(self._difference(), after)
        if change.kept:
            self._small.load_state_dict(trained)
        return change

    def _alike(self, name: str) -> bool:
        """Return True if the outputs of a block of both networks can be compared."""
        found = self._pair(name, select(self._batches[0], 0, 1), 0)
        return found is not None and found[0].output is not None and found[0].output.shape == found[1].shape

    def _pair(self, name: str, batch: Nested, number: int) -> tuple[BlockCall, Tensor] | None:
        """Return the small block's call on a batch, and the dense block's outputs as far as the small one has them."""
        calls = [
            block_calls(model, [name], self._forward, batch, self._seed + number, first=True).get(name)
            for model in (self._small, self._dense)
        ]
        if not calls[0] or not calls[1] or calls[1][0].output is None:
            return None
        kept, output = self._kept[name], calls[1][0].output
        return calls[0][0], output if kept is None else kept.of(output)

    def _trained(self, name: str, told: Callable[[int], None]) -> BlockFit:
        module = self._small.get_submodule(name)
        pairs: list[tuple[BlockCall, Tensor]] = []
        held = 0
        for number, batch in enumerate(self._batches):
            pair = self._pair(name, batch, number)
            if pair is not None:
                pairs.append(pair)
                held += pair[0].bytes + pair[1].nbytes
            if held >= HELD_BYTES and len(pairs) >= HELD_BACK:
                break
        back = pairs[HELD_BACK - 1 :: HELD_BACK]
        own = [pair for place, pair in enumerate(pairs) if place % HELD_BACK != HELD_BACK - 1]
        before = [parameter.detach().clone() for parameter in module.parameters()]
        with kept_randomness(), evaluation_mode(module):
            first = _missed(module, back)
            _descend(module, own, self.steps, seed_of(f"{self._seed}/{name}"), told)
            last = _missed(module, back)
        kept = last < first
        if not kept:
            with torch.no_grad():
                for parameter, old in zip(module.parameters(), before, strict=True):
                    parameter.copy_(old)
        return BlockFit(name, first, last if math.isfinite(last) else first, kept)

    @torch.no_grad()
    def _difference(self) -> float:
        """Return the squared difference of the networks' held-back outputs, as a share of the squares of the dense one's."""
        differences, squares = 0.0, 0.0
        with kept_randomness(), evaluation_mode(self._small), evaluation_mode(self._dense):
            for number, batch in list(enumerate(self._batches))[HELD_BACK - 1 :: HELD_BACK]:
                outputs = []
                for model in (self._small, self._dense):
                    torch.manual_seed(self._seed + number)
                    outputs.append([one for one in tensors_in(self._forward(model, batch)) if one.is_floating_point()])
                for small, dense in zip(*outputs, strict=True):
                    if small.shape == dense.shape:
                        differences += float((small.double() - dense.double()).square().sum())
                        squares += float(dense.double().square().sum())
        return differences / max(squares, 1e-300)


def _parts(batches: Sequence[Nested]) -> Iterator[Nested]:
    """Yield the samples of batches in batches of the size of a step."""
    size = max(1, min(BATCH, sum(map(count_samples, batches)) // HELD_BACK))
    for batch in batches:
        count = count_samples(batch)
        for start in range(0, count, size):
            yield select(batch, start, min(start + size, count))


def _descend(
    module: nn.Module, pairs: Sequence[tuple[BlockCall, Tensor]], steps: int, seed: int, told: Callable[[int], None]
) -> None:
    """Train a module for some steps of Adam on calls and the outputs that are wanted of them."""
    scale = sum(float(target.square().mean()) for _, target in pairs) / len(pairs)
    draws = torch.Generator().manual_seed(seed)
    order: list[int] = []
    with trainable(module) as parameters, torch.enable_grad():
        rates = [RATE * float(one.detach().square().mean().sqrt().clamp_min(SMALLEST)) for one in parameters]
        optimizer = torch.optim.Adam([{"params": [one], "lr": rate} for one, rate in zip(parameters, rates, strict=True)])
        for step in range(steps):
            order = order or torch.randperm(len(pairs), generator=draws).tolist()
            call, target = pairs[order.pop()]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = 0.5 * rate * (1.0 + math.cos(math.pi * step / steps))
            loss = (call.answer(module) - target).square().mean() / max(scale, 1e-30)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            told(step + 1)
        optimizer.zero_grad()


@torch.no_grad()
def _missed(module: nn.Module, pairs: Sequence[tuple[BlockCall, Tensor]]) -> float:
    """Return the squared difference of a module's outputs to those that are wanted, as a share of the squares of these."""
    differences, squares = 0.0, 0.0
    for call, target in pairs:
        answer = call.answer(module)
        differences += float((answer.double() - target.double()).square().sum())
        squares += float(target.double().square().sum())
    return differences / max(squares, 1e-300)
