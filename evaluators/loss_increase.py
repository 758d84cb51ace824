"""The rise of the loss that one decision's bits cause by themselves, measured: what Omega is to predict."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluators.accuracy import evaluation_mode
from evaluators.omega import Place, as_float
from evaluators.task import Batch, Task
from spaces.graph.fake_quantize import Quantizer


@dataclass(frozen=True)
class Increase:
    """A measured rise of the loss.

    Attributes:
        value: Mean over the samples.
        standard_error: Its standard error, of the differences batch by batch.
    """

    value: float
    standard_error: float


def loss_increases(
    model: nn.Module, places: Sequence[Place], bits: Mapping[str, int], task: Task, batches: Sequence[Batch]
) -> dict[str, Increase]:
    """Return the rise of the mean loss when one decision alone is quantized, all others in float, one after the other.

    Args:
        model: A prepared network with calibrated quantizers, on the batches' device; left unchanged.
        places: Where it quantizes.
        bits: Bits by decision; decisions that are not named are left out.
        task: Loss and forward pass.
        batches: At least two, of inputs and targets.
    """
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    found = {}
    with evaluation_mode(model), as_float(model):
        base = _losses(model, task, batches)
        for decision, count in bits.items():
            own = [quantizers[place.path] for place in places if place.decision == decision]
            with _quantizing(own, count):
                losses = _losses(model, task, batches)
            changes = [after - before for after, before in zip(losses, base, strict=True)]
            sizes = [len(inputs) for inputs, _ in batches]
            mean = sum(change * size for change, size in zip(changes, sizes, strict=True)) / sum(sizes)
            found[decision] = Increase(mean, statistics.stdev(changes) / len(changes) ** 0.5)
    return found


def _losses(model: nn.Module, task: Task, batches: Sequence[Batch]) -> list[float]:
    with torch.no_grad():
        return [float(task.loss(task.forward(model, inputs), targets)) for inputs, targets in batches]


@contextmanager
def _quantizing(quantizers: Sequence[Quantizer], bits: int) -> Iterator[None]:
    """Let quantizers that are switched off round to ``bits`` all the same, with the step calibrated for those."""

    def rounded(module: Quantizer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda _, args, output: module.quantized(args[0], bits)

    handles = [module.register_forward_hook(rounded(module)) for module in quantizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
