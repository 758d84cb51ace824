"""Networks small enough for their whole Hessian, with batches of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from evaluators.task import Batch
from spaces.execution.forward import call

__all__ = ["Attention", "Saddle", "batches_of", "call", "curvlinops", "exact_traces", "mlp", "seeded", "weights_of"]

with warnings.catch_warnings():
    # What it imports still uses torch.jit.script, which torch warns of.
    warnings.simplefilter("ignore", FutureWarning)
    import curvlinops


def seeded(build: Callable[[], nn.Module], seed: int = 0, gain: float = 2.0) -> nn.Module:
    """Return a network of weights ``gain`` times as large as at the start of a training, for a Hessian that is far from 0."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = build()
        for weight in weights_of(model).values():
            weight.mul_(gain)
    return model


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


class Attention(nn.Module):
    """One head of attention over three tokens of four features, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.classifier = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = inputs.reshape(len(inputs), 3, 4)
        mixed = F.scaled_dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))
        logits: Tensor = self.classifier(mixed.mean(dim=1))
        return logits


class Saddle(nn.Module):
    """Outputs whose loss, their mean, has second derivatives 2 by ``up`` and -3 by ``down``."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(4))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.up.square().sum() - 1.5 * self.down.square().sum()).expand(len(inputs))


def batches_of(features: int, classes: int = 3, sizes: tuple[int, ...] = (16, 8), seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, features, generator=generator), torch.randint(0, classes, (size,), generator=generator))
        for size in sizes
    ]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}


def exact_traces(model: nn.Module, weights: Mapping[str, Tensor], batches: list[Batch]) -> dict[str, float]:
    """Return the traces of the diagonal blocks of the Hessian, computed in full, in float64."""
    double = {name: value.detach().double() for name, value in (*model.named_parameters(), *model.named_buffers())}
    inputs = torch.cat([batch for batch, _ in batches]).double()
    targets = torch.cat([batch for _, batch in batches])
    traces = {}
    for name, weight in weights.items():

        def loss(flat: Tensor, name: str = name, weight: Tensor = weight) -> Tensor:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                outputs = functional_call(model, {**double, name: flat.reshape(weight.shape)}, (inputs,))
            return F.cross_entropy(outputs, targets)

        hessian = torch.autograd.functional.hessian(loss, double[name].flatten())
        traces[name] = float(hessian.diagonal().sum())
    return traces
