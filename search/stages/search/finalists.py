"""Finalists: the best few candidates of a search, each trained for a while, so that scores after training decide."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluators.training.checkpoint import Checkpoint
from evaluators.training.loop import EpochRecord
from evaluators.training.settings import TrainingSettings
from search.output.disk_errors import is_disk_error
from search.output.exhaustion import exhausted
from search.run.network import Network
from search.run.stage_run import RESULT, StageRun
from search.run.steps import FINALISTS
from search.stages.search.context import SearchContext
from search.stages.training import carry_out
from search.study.pareto import front, ranked
from search.study.problem import Problem
from search.study.trial import Proposal, Trial
from spaces.base import Solve
from spaces.errors import SecateursError, error_line


@dataclass(frozen=True)
class Finalist:
    """A candidate to be trained.

    Attributes:
        proposal: What was measured.
        end: The end state of its trial's training, or None.
        trial: The trial's number, None for a baseline that is no trial.
    """

    proposal: Proposal
    end: Checkpoint | None = None
    trial: int | None = None

    def label(self, run: StageRun) -> str:
        """Return the name that trackers have for its training: the stage, and the trial, or the baseline."""
        if run.variant != RESULT:
            return run.label
        number = self.proposal.candidate.fingerprint[:8] if self.trial is None else self.trial
        return f"{run.step} (finalist {number})"

    def order(self, place: int, score: float, sign: float) -> tuple[bool, float, int]:
        """Return what sorts finalists, best first: a score that is no number comes last, of equal ones the lower number first.

        Args:
            place: Its place, which stands for the trial's number where there is none.
            score: Its score.
            sign: 1 if a higher score is better, -1 if a lower one is.
        """
        lost = math.isnan(score)
        return lost, 0.0 if lost else -sign * score, place if self.trial is None else self.trial


def choose_finalists(
    trials: Sequence[Trial],
    problem: Problem,
    count: int,
    incumbent: Trial | None = None,
    order: Sequence[Trial] | None = None,
) -> list[Trial]:
    """Return the trials to train on: the best ones, each candidate once; with several objectives spread over the front.

    Args:
        trials: All trials.
        problem: What is sought.
        count: Number of trials to return, fewer where there are no more.
        incumbent: The trial that the search would deliver, which comes first with one objective; None for the best one.
        order: Trials in the order of the algorithm's preference, with one objective; None for that of :func:`.ranked`.
    """
    if len(problem.objectives) > 1:
        found = front(trials, problem)
        places = {round(index * (len(found) - 1) / max(1, count - 1)) for index in range(min(count, len(found)))}
        return [found[place] for place in sorted(places)]
    once = {
        trial.proposal.candidate.fingerprint: trial for trial in reversed(ranked(trials, problem) if order is None else order)
    }
    if incumbent is not None:
        once.pop(incumbent.proposal.candidate.fingerprint, None)
    return [*([] if incumbent is None else [incumbent]), *list(once.values())[::-1]][:count]


def train_finalists(
    finalists: Sequence[Finalist],
    context: SearchContext,
    training: TrainingSettings,
    run: StageRun,
    solve: Callable[[Proposal], Solve | None] = lambda proposal: None,
) -> tuple[int, Network]:
    """Train every finalist, and return the place of the one that scores best on the search split, and its trained network.

    Where ``solve`` gives something for a proposal, layers are solved before they are trained. Of equal scores the lower trial
    number wins.

    What was trained is kept in the stage's folder, so that a cut-off stage goes on. Notes ``finalists`` for the report; one
    whose training fails has an ``error`` and no ``search_score``, and is passed over.

    Raises:
        SecateursError: The training of every finalist fails.
    """
    rows: list[dict[str, object]] = []
    best: tuple[tuple[bool, float, int], int, Network] | None = None
    with run.log.bar(f"{run.label}: finalists", len(finalists)) as bar:
        for place, finalist in enumerate(finalists):
            row: dict[str, object] = {"trial": finalist.trial, "fingerprint": finalist.proposal.candidate.fingerprint}
            try:
                network, score = _trained(finalist, context, training, run, solve(finalist.proposal))
            except Exception as error:
                if exhausted(error) or is_disk_error(error):
                    raise
                rows.append({**row, "search_score": None, "error": error_line(error)})
                run.log.write(f"{run.label}: finalist {place + 1} failed: {error_line(error)}", logging.WARNING)
                continue
            rows.append({**row, "search_score": score})
            order = finalist.order(place, score, run.task.score_sign)
            if best is None or order < best[0]:
                best = order, place, network
            bar.update(place + 1, f"{run.task.score_name} {score:.4f}")
            run.stopwatch.save()
    if best is None:
        raise SecateursError(f"the training of every finalist failed; the last one: {rows[-1]['error']}")
    run.notes["finalists"] = rows
    return best[1], best[2]


def _trained(
    finalist: Finalist, context: SearchContext, training: TrainingSettings, run: StageRun, solve: Solve | None
) -> tuple[Network, float]:
    """Return the trained network of a finalist and its score on the search split."""
    network, _ = context.realize(finalist.proposal, finalist.end, solve)
    reference = run.reference if run.reference is not None else context.network
    teacher = reference.copy() if training.distillation is not None else None
    checkpoint = run.training(FINALISTS, f"{finalist.proposal.candidate.fingerprint}.safetensors")

    def on_epoch(record: EpochRecord) -> None:
        run.trackers.epoch(finalist.label(run), record.epoch, record.values(run.task.score_name))

    history = carry_out(network, run, training, checkpoint, teacher, on_epoch=on_epoch)
    return network, history.kept.search_score
