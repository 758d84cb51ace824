"""Records of a search that a run keeps: the study, and the trainings of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluators.training.checkpoint import Checkpoint
from search.executors.trial_checkpoints import TrialCheckpoints
from search.run.stage_run import RESULT, StageRun
from search.run.steps import ASYNCHRONOUS, TRIALS
from search.stages.search.context import SearchContext
from search.study.study import Study
from search.study.trial import Trial
from search.study.trial_note import costs_of
from spaces.errors import SecateursError
from spaces.files.atomic import replace_file


def study_of(context: SearchContext, run: StageRun) -> Study:
    """Return the record of a search, which tells the run's trackers of every new trial."""
    suffix = "" if run.variant == RESULT else f"/{run.variant}"
    reference = costs_of(run.reference if run.reference is not None else context.network, run.task, run.device)

    def tell(trial: Trial) -> None:
        run.trackers.trial(run.label, trial.number, trial.metrics)

    return Study(run.storage, f"{run.name}/{run.step}{suffix}", context.problem, reference, run.entered, tell)


def trial_checkpoints(context: SearchContext, run: StageRun, trials: Callable[[], Sequence[Trial]]) -> TrialCheckpoints:
    """Return the trainings of trials, of which one that is lost is made again as the ``trials`` of the record say."""

    def remake(number: int) -> None:
        (trial,) = [trial for trial in trials() if trial.number == number]
        context.evaluator.prepare(trial.proposal, made.end_of(trial), made.start(trial.proposal))

    made = TrialCheckpoints(run.folder / TRIALS, run.warn, remake)
    return made


def end_of(context: SearchContext, checkpoints: TrialCheckpoints, trial: Trial) -> Checkpoint | None:
    """Return the end state of a trial, made again where it is lost; None for a trial that has none."""
    proposal = trial.proposal
    if not context.evaluator.trains(proposal.candidate) or proposal.fidelity == 0.0:
        return checkpoints.end(trial.number)
    if checkpoints.end_of(trial).packed() is None and checkpoints.remake is not None:
        checkpoints.remake(trial.number)
    return checkpoints.end_of(trial)


def is_asynchronous(run: StageRun) -> bool:
    """Return whether proposals are told as they are finished; what was recorded like that can't be replayed in batches.

    Raises:
        SecateursError: The search was begun so, and now is not.
    """
    marker = run.folder / ASYNCHRONOUS
    if run.execution.asynchronous:
        replace_file(marker, b"")
    elif marker.exists():
        raise SecateursError(
            f"{run.label} was begun with execution.asynchronous: true, so that its trials are recorded in the order in which "
            "they were finished: go on with execution.asynchronous=true, or give the run another name"
        )
    return bool(run.execution.asynchronous)
