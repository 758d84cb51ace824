"""Torch-Pruning's pruners, driven to a MACs target: the peers of the channel search."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from evaluators.cost import count_costs
from evaluators.task import Task
from spaces.sparsifiers.base import Sparsifier

MAX_RATIO = 0.95
STEPS = 14
GROUP_NORM = 5e-4
UPDATES = 40
CEILING = 2e-2


def _last_linear(model: nn.Module) -> list[nn.Module]:
    return [[module for module in model.modules() if isinstance(module, nn.Linear)][-1]]


def prune_to(
    model: nn.Module,
    inputs: Tensor,
    macs: float,
    importance: Callable[[], Any],
    global_pruning: bool,
    gradients: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Return a pruned copy of ``model`` with at most ``macs`` MACs: the smallest pruning ratio that does, by bisection.

    Args:
        model: The dense network.
        inputs: One batch of a single sample.
        macs: The limit.
        importance: Makes Torch-Pruning's importance.
        global_pruning: One ranking over all layers, or the same ratio in every layer.
        gradients: Fills ``.grad`` where the importance needs it.
    """
    low, high = 0.0, 1.0
    best: nn.Module | None = None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        candidate = copy.deepcopy(model)
        if gradients is not None:
            gradients(candidate)
        pruner = tp.pruner.BasePruner(
            candidate,
            inputs,
            importance=importance(),
            global_pruning=global_pruning,
            pruning_ratio=ratio,
            max_pruning_ratio=MAX_RATIO,
            ignored_layers=_last_linear(candidate),
        )
        pruner.step()
        candidate.zero_grad(set_to_none=True)
        if count_costs(candidate, inputs)["macs"] <= macs:
            best, high = candidate, ratio
        else:
            low = ratio
    if best is None:
        raise RuntimeError(f"Torch-Pruning reaches no network of {macs:.3g} MACs")
    return best


def loss_gradients(task: Task, batches: int = 8) -> Callable[[nn.Module], None]:
    """Return a function that accumulates the training loss's gradients, for Taylor importance."""

    def fill(model: nn.Module) -> None:
        model.eval()
        for inputs, targets in task.batches("train", 128, limit=128 * batches):
            task.loss(task.forward(model, inputs), targets).backward()  # type: ignore[no-untyped-call]

    return fill


class BNScaleRegularization(Sparsifier):
    """Torch-Pruning's own sparse training on BN scales, as hooks of our loop."""

    def __init__(self, inputs: Tensor, strength: float) -> None:
        self._inputs = inputs
        self._strength = strength

    def start(self, model: nn.Module, total_steps: int) -> None:
        self._model = model
        self._pruner = tp.pruner.BNScalePruner(
            model,
            self._inputs,
            importance=tp.importance.BNScaleImportance(),
            reg=self._strength,
            ignored_layers=_last_linear(model),
        )
        torch.set_grad_enabled(True)

    def after_backward(self) -> None:
        self._pruner.regularize(self._model)


class Regularized(Sparsifier):
    """Torch-Pruning's own regularized training, as hooks of our loop.

    Growing regularization (Wang, Qin, Zhang, Fu, ICLR 2021, arXiv 2012.09243) adds ``delta`` to the strength of the weakest
    channels in steps that take it to :data:`CEILING` by the end. Group norm (Fang et al., CVPR 2023, arXiv 2301.12900) keeps
    the strength that the authors' examples use.

    Args:
        inputs: One batch of a single sample.
        kind: Which of the two.
    """

    def __init__(self, inputs: Tensor, kind: str) -> None:
        self._inputs = inputs
        self._kind = kind
        self._step = 0

    def start(self, model: nn.Module, total_steps: int) -> None:
        self._model = model
        options = {"importance": tp.importance.GroupMagnitudeImportance(p=2), "ignored_layers": _last_linear(model)}
        self._every = max(1, total_steps // UPDATES)
        if self._kind == "growing_reg":
            self._pruner = tp.pruner.GrowingRegPruner(
                model, self._inputs, reg=GROUP_NORM, delta_reg=CEILING / UPDATES, **options
            )
        else:
            self._pruner = tp.pruner.GroupNormPruner(model, self._inputs, reg=GROUP_NORM, **options)
        torch.set_grad_enabled(True)

    def after_backward(self) -> None:
        self._pruner.regularize(self._model)

    def after_step(self) -> None:
        self._step += 1
        if self._kind == "growing_reg" and self._step % self._every == 0:
            self._pruner.update_reg()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the step and, where it grows, the strength of every channel."""
        strengths = getattr(self._pruner, "group_reg", {}).values()
        return {"step": torch.tensor(self._step), **{str(n): strength.clone() for n, strength in enumerate(strengths)}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._step = int(state["step"])
        for number, group in enumerate(getattr(self._pruner, "group_reg", {})):
            self._pruner.group_reg[group] = state[str(number)].clone()
