"""Retrain: train the smaller network, with the reference as its teacher where distillation is asked for."""

from __future__ import annotations

import logging

from evaluators.tasks.measure import measure
from evaluators.training.kept_epoch import clearly_better, samples_of_score
from search.run.network import Network
from search.run.stage_run import StageRun
from search.run.steps import TRAINING
from search.stages.training import TrainingStage


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
        after, sign = scores[run.notes["kept_epoch"] - 1], run.task.score_sign
        if not clearly_better(sign * before, sign * after, samples_of_score(run.task)):
            return trained
        remark = (
            f"retraining made the network worse ({score} on the search split {before:.4f} before, {after:.4f} after): it is "
            "kept as it was; lower retrain.optimizer.lr, or retrain more as it was trained (batch_size, data.augment)"
        )
        run.notes["remark"] = f"{run.step}: {remark}"
        run.notes["kept_epoch"] = 0
        run.log.write(f"{run.label}: {remark}", logging.WARNING)
        return network
