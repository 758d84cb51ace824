"""Influence of units: by how much each turns the value that it is added to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward
from spaces.execution.hooks import temporary_hooks
from spaces.execution.operator_mode import Unfused
from spaces.residual.additions import AdditionMode, Watch
from spaces.residual.units import Unit


def influence(model: nn.Module, units: Sequence[Unit], batches: Iterable[Nested], forward: Forward) -> dict[str, float]:
    """Return 1 - cosine of the value before a unit and behind it, averaged over samples, by unit (Men et al. 2024,
    arXiv 2403.03853, equation 1; here over all elements of a sample, which fits images as well as texts).

    Args:
        model: The whole network; left unchanged.
        units: Its units.
        batches: Batches of inputs; without any, all units have the same influence, 1.
        forward: How ``model`` is run on a batch.
    """
    sums: dict[str, list[float]] = {unit.name: [0.0, 0.0] for unit in units}

    def watching(name: str) -> Watch:
        def watch(before: Tensor, behind: Tensor) -> None:
            cosines = F.cosine_similarity(before.flatten(1).double(), behind.flatten(1).double(), dim=1)
            sums[name][0] += float((1.0 - cosines).sum())
            sums[name][1] += len(cosines)

        return watch

    watched = {place: watching(unit.name) for unit in units for place in unit.zeroed}

    def hook_of(path: int | str, watch: Watch) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            behind = next(one for one in tree_leaves(output) if isinstance(one, Tensor))
            watch(args[path] if isinstance(path, int) else kwargs[path], behind)

        return hook

    def handles() -> Iterator[RemovableHandle]:
        for unit in units:
            for name, path in unit.skipped.items():
                hook = hook_of(path, watching(unit.name))
                yield model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)

    with evaluation_mode(model), torch.no_grad(), temporary_hooks(handles()):
        for batch in batches:
            with Unfused(), AdditionMode(watched=watched):
                forward(model, batch)
    return {name: max(total / count, 0.0) if count else 1.0 for name, (total, count) in sums.items()}
