"""One training in several processes: every rank computes its rows of each batch, and gradients are averaged over the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evaluators.training.errors import TrainingError
from evaluators.training.settings import TrainingSettings
from spaces.sparsifiers.base import Sparsifier


@dataclass(frozen=True)
class Ranks:
    """Place of this process among those of one training, over torch's default process group.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        behind: True for a process that takes part no more, and only takes up the end of what so many have trained.
    """

    rank: int = 0
    size: int = 1
    behind: bool = False

    @property
    def together(self) -> bool:
        """True for one of several processes that train at the same time."""
        return self.size > 1 and not self.behind

    @property
    def parts(self) -> int:
        """Number of processes that share every batch."""
        return self.size if self.together else 1

    @property
    def first(self) -> bool:
        """True for the rank that saves and tells."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the ranks, in place, and return it."""
        if self.together:
            torch.distributed.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Average a tensor over the ranks, in place, and return it."""
        return self.sum(tensor).div_(self.size) if self.together else tensor

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over the ranks; a parameter that no rank has a gradient of is left without one."""
        if not self.together:
            return
        by_type: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                by_type.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for (dtype, device), group in by_type.items():
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in group]
            there = torch.tensor([float(one.grad is not None) for one in group], dtype=dtype, device=device)
            flat = self.mean(torch.cat([*(gradient.reshape(-1) for gradient in gradients), there]))
            *parts, there = torch.split(flat, [*(one.numel() for one in group), len(group)])
            # Looking at a tensor waits for an accelerator: only where this rank lacks a gradient must it know of the others.
            everywhere = all(one.grad is not None for one in group)
            there_are = [True] * len(group) if everywhere else there.tolist()
            for parameter, gradient, part, known in zip(group, gradients, parts, there_are, strict=True):
                if known:
                    parameter.grad = gradient.copy_(part.view_as(gradient))

    def average_statistics(self, model: nn.Module) -> None:
        """Average the running statistics of BatchNorm over the ranks."""
        for layer in _layers(model) if self.together else ():
            for statistic in (layer.running_mean, layer.running_var):
                if statistic is not None:
                    self.mean(statistic)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows that all ranks have of a batch, in order of the ranks; each has as many."""
        if not self.together:
            return rows
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @contextmanager
    def draws(self, device: torch.device) -> Iterator[None]:
        """Let the network's draws inside the context be this rank's own, and leave the global generators as they were.

        So what is drawn outside, such as by a sparsifier, is the same on all ranks. A single rank draws as ever.
        """
        if not self.together:
            yield
            return
        # Behind the context the common generators move on, or the next step would draw the same.
        base = int(torch.randint(2**62, (), dtype=torch.int64))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed = base + self.rank
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            yield

    def require_present(self, settings: TrainingSettings) -> None:
        """Raise where a network that depends on the number of ranks would be trained without them.

        Raises:
            TrainingError: It would; the end of a training of several ranks is lost.
        """
        if self.behind and self.size > 1 and settings.batch_norm == "per_rank":
            raise TrainingError(
                f"the end of a training on {self.size} workers with batch_norm: per_rank is not there any more, and one process"
                " can't train the same network; run the same command again, or set batch_norm: synchronized"
            )

    def require_same(self, model: nn.Module, sparsifier: Sparsifier | None) -> None:
        """Raise unless all ranks have the same parameters.

        Raises:
            TrainingError: They differ.
        """
        if not self.together:
            return
        with torch.no_grad():
            sums = torch.stack([parameter.sum(dtype=torch.float64) for parameter in model.parameters()]).nan_to_num()
        if (self.gather(sums[None]) == sums).all():
            return
        name = type(model if sparsifier is None else sparsifier).__name__
        raise TrainingError(
            f"the training workers have different weights: {name} does other things in each of the {self.size}; train with "
            "execution.training_workers: 1, or let it decide by weights and gradients alone"
        )

    def agreed(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Return the first rank's values, in double precision."""
        if not self.together:
            return dict(values)
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        torch.distributed.broadcast(tensor, 0)
        return dict(zip(values, tensor.tolist(), strict=True))


def require_ranks(settings: TrainingSettings, size: int) -> None:
    """Raise if ranks can't share the batches of a training equally.

    Raises:
        TrainingError: They can't; the message names the nearest size that fits.
    """
    if settings.shards is not None:
        if settings.shards % size:
            nearest = max(1, round(settings.shards / size)) * size
            raise TrainingError(
                f"shards: expected a multiple of the {size} training workers, got {settings.shards}; the nearest is {nearest}"
            )
        return
    least = 2 if settings.batch_norm == "per_rank" else 1
    if settings.batch_size % size or settings.batch_size < least * size:
        nearest = max(least, round(settings.batch_size / size)) * size
        raise TrainingError(
            f"batch_size: expected a multiple of the {size} training workers, which share every batch, got "
            f"{settings.batch_size}; the nearest is {nearest}"
        )


def drawing_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers whose draws differ between ranks: dropout of any kind, with a chance above 0."""
    return [name for name, module in model.named_modules() if _draws(module)]


def _draws(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return bool(module.p)
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return bool(module.dropout)
    return isinstance(module, nn.RReLU)


@contextmanager
def synchronized_statistics(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let every BatchNorm layer take the statistics of the whole batch, over all ranks, inside the context.

    torch's own synchronized layer runs on GPUs alone; this one needs sums over the ranks only.
    """
    if not ranks.together:
        yield
        return
    layers: list[Any] = list(_layers(model))
    try:
        for layer in layers:
            layer.forward = _SynchronizedForward(layer, ranks)
        yield
    finally:
        for layer in layers:
            # The class's own method is seen again.
            del layer.forward


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


class _SynchronizedForward:
    """The forward pass of a BatchNorm layer over the rows of all ranks."""

    def __init__(self, layer: _BatchNorm, ranks: Ranks) -> None:
        self._layer = layer
        self._ranks = ranks
        self._own = layer.forward

    def __call__(self, inputs: Tensor) -> Tensor:
        layer = self._layer
        if not layer.training:
            return self._own(inputs)
        wide = inputs if inputs.dtype == torch.float64 else inputs.float()
        outputs, mean, variance, count = _Normalized.apply(wide, layer.eps, self._ranks)
        with torch.no_grad():
            self._move(mean, variance, count)
        if layer.affine:
            shape = (1, -1, *(1,) * (inputs.dim() - 2))
            outputs = outputs * layer.weight.view(shape) + layer.bias.view(shape)
        normalized: Tensor = outputs.to(inputs.dtype)
        return normalized

    def _move(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics as the layer itself does, without waiting for an accelerator."""
        layer = self._layer
        if layer.running_mean is None or layer.running_var is None:
            return
        share: Any = 0.0 if layer.momentum is None else layer.momentum
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
            if layer.momentum is None:
                share = layer.num_batches_tracked.to(layer.running_mean.dtype).reciprocal()
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
        unbiased = variance * (count / (count - 1.0).clamp_min(1.0))
        layer.running_var.lerp_(unbiased.to(layer.running_var.dtype), share)


class _Normalized(torch.autograd.Function):
    """Inputs of shape ``(N, C, ...)`` less their mean, over their deviation, both over all ranks (Ioffe, Szegedy 2015)."""

    @staticmethod
    def forward(ctx, inputs, eps, ranks):  # type: ignore[no-untyped-def]
        dims = [dim for dim in range(inputs.dim()) if dim != 1]
        shape = [1, -1, *(1,) * (inputs.dim() - 2)]
        rows = inputs.new_full((1,), inputs.numel() // inputs.shape[1])
        sums = ranks.sum(torch.cat([inputs.sum(dims), rows]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = inputs - mean.view(shape)
        variance = ranks.sum(centred.square().sum(dims)) / count
        scale = (variance + eps).rsqrt()
        outputs = centred * scale.view(shape)
        ctx.save_for_backward(outputs, scale, count)
        ctx.ranks, ctx.dims, ctx.shape = ranks, dims, shape
        ctx.mark_non_differentiable(mean, variance, count)
        return outputs, mean, variance, count

    @staticmethod
    def backward(ctx, gradient, *others):  # type: ignore[no-untyped-def]
        outputs, scale, count = ctx.saved_tensors
        sums = torch.stack([gradient.sum(ctx.dims), (gradient * outputs).sum(ctx.dims)])
        first, second = (one.view(ctx.shape) for one in ctx.ranks.sum(sums) / count)
        return (gradient - first - outputs * second) * scale.view(ctx.shape), None, None
