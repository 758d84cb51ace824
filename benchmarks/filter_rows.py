"""The rows of the filter-pruning benchmark: gradient cut, hard pruning by the same importance, and Torch-Pruning's pruners."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from benchmarks.pruning_bench import CPU, Bench, Row, Sizes
from evaluators.cost import count_costs
from evaluators.task import Task
from evaluators.tasks.observations import observations
from search.run.network import Network
from search.stages.removal import remove_channels
from spaces.channels.check import find_checked_groups
from spaces.channels.cost import ChannelCost
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.importance.criterion import CriterionName, score
from spaces.sparsifiers.channel_split import ChannelSplit
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings

SEEN = 2048
"""Training samples that importance is learnt from, where it is learnt once."""


@dataclass(frozen=True)
class FilterSizes(Sizes):
    """How much is trained; the same for every row.

    ``sparse`` is the peers' regularized epochs: of one in four and two in four, the fewer were better for both on the search
    split, since more are left to recover in.
    """

    train: int = 6000
    search: int = 2000
    pretraining: int = 12
    epochs: int = 6
    sparse: int = 1


QUICK = FilterSizes(train=512, search=256, pretraining=1, epochs=2, sparse=1)
FilterBench = Bench[FilterSizes]


AS_WRITTEN = GradientCutSettings(importance="relevance_loss", smoothing=0.0, ramp=0.0, freeze=1.0, decay_by="weight_decay")
"""A split at every step, and fading by the training's weight decay alone: what is left at the end goes at once.

The formula of importance, lost in the source, is ours, as is the distillation that every row has.
"""


def _share(task: Task, reference: nn.Module, limit: float) -> float:
    return limit / count_costs(reference, task.example_inputs())["macs"]


def gradient_cut(base: GradientCutSettings, after: int = 0) -> Row:
    """Return the row that cuts while it trains, removes what was cut, and trains its last ``after`` epochs without."""

    def row(bench: FilterBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        sparsifier = GradientCut(replace(base, macs=_share(task, reference, limit)))
        trained, complete = bench.sparse(task, reference, sparsifier, path, bench.sizes.epochs - after, "one_cycle")
        removed = remove_channels(Network(trained), sparsifier, task, complete)
        if removed is None:
            raise RuntimeError("gradient cut removed nothing")
        return removed[0].model, after

    return row


def hard(importance: CriterionName) -> Row:
    """Return the row that removes at once, by the same importance and the same split, and trains for all epochs."""

    def row(bench: FilterBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        settings = GradientCutSettings(macs=_share(task, reference, limit))
        groups = find_checked_groups(reference, task.example_inputs(), forward=task.forward)
        scores = score(reference, groups, importance, observations(task, CPU, limit=SEEN))
        split = ChannelSplit(ChannelCost(reference, groups), groups, 0.0, {}, settings.macs, settings.scope, settings.max_ratio)
        gone = split.redundant(np.concatenate([scores[group.name] for group in groups.groups]))
        return apply_cut(reference, plan_cut(groups, ~gone)), bench.sizes.epochs

    return row


def peer(kind: Literal["growing_reg", "group_norm"]) -> Row:
    """Return the row of a pruner of Torch-Pruning: regularized training, removal, training."""

    def row(bench: FilterBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        import torch_pruning as tp

        from benchmarks.torch_pruning_peers import Regularized, prune_to

        inputs = task.example_inputs()
        model, _ = bench.sparse(task, reference, Regularized(inputs, kind), path)
        small = prune_to(model, inputs, limit, lambda: tp.importance.GroupMagnitudeImportance(p=2), global_pruning=False)
        return small, bench.sizes.epochs - bench.sizes.sparse

    return row


ROWS: dict[str, Row] = {
    "gradient cut, relevance x loss (ours)": gradient_cut(GradientCutSettings(importance="relevance_loss")),
    "gradient cut, L2 (ours)": gradient_cut(GradientCutSettings(importance="l2")),
    "gradient cut faded as in SSI 2022, importance ours": gradient_cut(AS_WRITTEN),
    "gradient cut faded as in SSI 2022, importance ours, the last epoch without": gradient_cut(AS_WRITTEN, after=1),
    "hard pruning, relevance x loss": hard("relevance_loss"),
    "hard pruning, L2": hard("l2"),
    "Torch-Pruning growing regularization": peer("growing_reg"),
    "Torch-Pruning group norm": peer("group_norm"),
}
