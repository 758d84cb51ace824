"""Parts of a batch that are computed one after the other, with statistics of BatchNorm of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def shard_statistics(model: nn.Module, shard: int, shards: int) -> Iterator[None]:
    """Let running statistics move once a step, by the mean over all shards, while each is computed inside the context.

    With momentum m, of the n shards of a step the one at place k moves them by (m / n) / (1 - (n - 1 - k) m / n): behind the
    last one, 1 - m of the old ones are left, and m / n is of each shard (ours). Without a momentum m is 1 over the steps.

    Args:
        model: The network.
        shard: Place of the shard, from 0.
        shards: Number of shards that are computed one after the other in a step.
    """
    if shards == 1:
        yield
        return
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer, momentum in zip(layers, momenta, strict=True):
            if momentum is None and layer.num_batches_tracked is not None:
                momentum = 1.0 / (int(layer.num_batches_tracked) + (0 if shard else 1))
            share = (momentum or 0.0) / shards
            layer.momentum = share / (1.0 - (shards - 1 - shard) * share)
            if shard and layer.num_batches_tracked is not None and layer.training:
                # The step counts once; the layer adds 1 for every shard.
                layer.num_batches_tracked.sub_(1)
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
