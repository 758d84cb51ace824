"""Finalists: the best few candidates of a search, each trained for a while, so that scores after training decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.training.checkpoint import Checkpoint, FileCheckpoint
from evaluators.training.loop import train
from search.run.network import Network
from search.run.stage_run import StageRun
from search.run.steps import FINALISTS
from search.stages.search.context import SearchContext
from search.stages.search.settings import FinalistSettings
from search.study.pareto import front, ranked
from search.study.problem import Problem
from search.study.trial import Proposal, Trial


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


def choose_finalists(trials: Sequence[Trial], problem: Problem, count: int) -> list[Trial]:
    """Return the trials to train on: the best ones, each candidate once; with several objectives spread over the front."""
    if len(problem.objectives) > 1:
        found = front(trials, problem)
        places = {round(index * (len(found) - 1) / max(1, count - 1)) for index in range(min(count, len(found)))}
        return [found[place] for place in sorted(places)]
    once = {trial.proposal.candidate.fingerprint: trial for trial in reversed(ranked(trials, problem))}
    return list(once.values())[::-1][:count]


def train_finalists(
    finalists: Sequence[Finalist], context: SearchContext, settings: FinalistSettings, run: StageRun
) -> tuple[int, Network]:
    """Train every finalist, and return the place of the one that scores best on the search split, and its trained network.

    What was trained is kept in the stage's folder, so that a cut-off stage goes on. Notes ``finalists`` for the report.
    """
    rows: list[dict[str, object]] = []
    best: tuple[float, int, Network] | None = None
    reference = run.reference if run.reference is not None else context.network
    distilled = settings.training.distillation is not None
    with run.log.bar(f"{run.label}: finalists", len(finalists)) as bar:
        for place, finalist in enumerate(finalists):
            network, _ = context.realize(finalist.proposal, finalist.end)
            fingerprint = finalist.proposal.candidate.fingerprint
            history = train(
                network.model,
                run.task,
                settings.training,
                seed=run.seed,
                device=run.device,
                checkpoint=FileCheckpoint(run.folder / FINALISTS / f"{fingerprint}.safetensors"),
                teacher=reference.copy().model if distilled else None,
            )
            record = history.best if settings.training.early_stop is not None else history.epochs[-1]
            score = (record if record is not None else history.epochs[-1]).search_score
            rows.append({"trial": finalist.trial, "fingerprint": fingerprint, "search_score": score})
            if best is None or score > best[0]:
                best = score, place, network
            bar.update(place + 1, f"{run.task.score_name} {score:.4f}")
            run.stopwatch.save()
    if best is None:
        raise ValueError("there is no finalist")
    run.notes["finalists"] = rows
    return best[1], best[2]
