"""Retrain: train the smaller network, with the reference as its teacher where distillation is asked for."""

from __future__ import annotations

import logging
import math

from evaluators.tasks.measure import measure
from search.output.numbers import standard_error
from search.run.network import Network
from search.run.stage_run import StageRun
from search.run.steps import TRAINING
from search.stages.training import TrainingStage

MARGIN = 0.02
"""Share of itself by which a score without a standard error may fall in retraining (ours)."""


class Retrain(TrainingStage):
    """Training of the network that a search left, undone where it made the network clearly worse.

    With ``early_stop``, until the search split's score stops rising. Clearly worse is by more than two standard errors of the
    difference of two means of values from 0 to 1 on the search split, or for other scores by more than 2 % of the score; a
    search chose the score before, which is a little high.
    """

    needs_removal = True
    goes_on = True
    grows = ("epochs",)
    purpose = "trains the network that a search leaves"
    instead = "train"

    def run(self, network: Network, run: StageRun) -> Network:
        """Return the trained network, or ``network`` itself where training made it clearly worse."""
        score = run.task.score_name
        before = measure(network.model, run.task, "search", device=run.device)[score]
        run.go_on(TRAINING)
        trained = super().run(network, run)
        scores = [epoch["search_score"] for epoch in run.notes["history"]]
        numbers = [value for value in scores if not math.isnan(value)]
        sign = run.task.score_sign
        best = sign * max((sign * value for value in numbers), default=math.nan)
        after = scores[-1] if self.settings.early_stop is None else best
        share = run.task.score_metrics[score].percent
        if not _clearly_worse(sign * before, sign * after, run.task.size("search") if share else None):
            return trained
        remark = (
            f"retraining made the network worse ({score} on the search split {before:.4f} before, {after:.4f} after): it is "
            "kept as it was; lower retrain.optimizer.lr, or retrain more as it was trained (batch_size, data.augment)"
        )
        run.notes["remark"] = f"{run.step}: {remark}"
        run.log.write(f"{run.label}: {remark}", logging.WARNING)
        return network


def _clearly_worse(before: float, after: float, samples: int | None) -> bool:
    """Return whether a score fell by more than two standard errors of the difference, or is no number any more.

    Args:
        before: Score before, higher is better.
        after: Score after.
        samples: Samples of a mean of values from 0 to 1; None for another score, which may fall by :data:`MARGIN` of itself.
    """
    if math.isnan(before) or math.isnan(after):
        return not math.isnan(before)
    if samples is None:
        return after < before - MARGIN * abs(before)
    errors = [standard_error(value, samples) for value in (before, after)]
    return after < before - 2 * math.hypot(*errors)
