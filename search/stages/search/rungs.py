"""Successive halving of finalists: many train for a few steps, the better half goes on, and the last one trains to the end.

Successive halving is that of Jamieson, Talwalkar 2016 (arXiv 1502.07943); that the rungs are the first steps of the training
that the winner gets in any case, so that none of its steps is lost, is ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluators.tasks.measure import measure
from evaluators.training.checkpoint import unpack_checkpoint
from evaluators.training.settings import TrainingSettings
from evaluators.training.state import EpochRecord, epochs_of, steps_of
from search.executors.base import Evaluate, Job, Workload
from search.executors.group_executor import executor_of
from search.executors.rung_trainer import STEPS, FinalistFiles, RungTrainer
from search.executors.training_group import PackedWork
from search.executors.trial_checkpoints import EndState
from search.output.disk_errors import is_disk_error
from search.output.exhaustion import exhausted
from search.output.progress import Bar
from search.run.network import Network
from search.run.record_file import RecordFile
from search.run.stage_run import StageContext, StageRun
from search.run.steps import BEGUN, FINALISTS
from search.stages.search.context import SearchContext
from search.stages.search.finalists import Finalist
from search.stages.search.settings import FinalistSettings
from search.stages.training import carry_out
from search.study.trial import Proposal
from spaces.base import Solve
from spaces.errors import SecateursError, error_line

Scores = dict[str, dict[str, float | None]]
"""Scores by fingerprint and number of steps; None for one that is no number."""


def rung_sizes(finalists: int, rungs: int) -> list[int]:
    """Return the number of finalists that train at every rung, the half of those before, rounded down, and 1 at least."""
    return [max(1, finalists >> rung) for rung in range(rungs)]


def training_of(settings: FinalistSettings, run: StageContext) -> TrainingSettings:
    """Return the training of which the rungs are the first steps: that of the settings, else of the stage behind.

    Raises:
        SecateursError: There is neither, or it has not so many steps.
    """
    training = settings.training or run.following
    if training is None:
        raise SecateursError(
            "finalists.steps are the first steps of a retraining: expected a `retrain` stage directly behind the search, or "
            "finalists.training, got neither"
        )
    total = _steps_per_epoch(training, run) * training.epochs
    if settings.steps[-1] >= total:
        where = "finalists.training" if settings.training is not None else "the retraining behind it"
        raise SecateursError(
            f"finalists.steps: expected fewer than the {total} steps of {where}, got {settings.steps[-1]}: train longer, with "
            "smaller batches, or compare earlier"
        )
    return training


def tell_steps(settings: FinalistSettings, run: StageContext) -> None:
    """Tell, in a check, how many finalists train for how many steps."""
    training_of(settings, run)
    sizes = rung_sizes(settings.count, len(settings.steps))
    counts = ", ".join(f"{size} to step {step}" for size, step in zip(sizes, settings.steps, strict=True))
    run.tell(f"finalists train {counts}; {_lost_steps(sizes, settings.steps)} steps are not the winner's")


def _lost_steps(sizes: Sequence[int], steps: Sequence[int]) -> int:
    spans = [step - before for step, before in zip(steps, [0, *steps[:-1]], strict=True)]
    return sum((size - 1) * span for size, span in zip(sizes, spans, strict=True))


def _steps_per_epoch(training: TrainingSettings, run: StageContext) -> int:
    return run.task.size("train") // training.batch_size


def halve_finalists(
    finalists: Sequence[Finalist],
    context: SearchContext,
    settings: FinalistSettings,
    run: StageRun,
    solve: Callable[[Proposal], Solve | None],
) -> tuple[int, Network | None]:
    """Return the place of the finalist that wins all rungs, and its network where it is trained to the end here.

    Without a training of the settings it is not: then the training so far is left in the stage's folder, for the stage behind.
    Rungs are trained by the configured executor and compared when all of them are there, so that the number of workers changes
    nothing; of equal scores the lower trial number wins. A single finalist is not compared. Notes ``finalists``: ``trial``,
    ``fingerprint``, ``steps`` trained, ``search_score`` then, and ``scores`` as (steps, score), from the one before training;
    one that fails has an ``error`` and no ``search_score``, and is passed over.

    Args:
        finalists: The finalists.
        context: The search.
        settings: Their number and steps.
        run: Resources of the stage.
        solve: Returns what solves the layers of a proposal's network before it is trained; None for nothing.

    Raises:
        SecateursError: Every finalist fails, or there is nothing to train with.
    """
    training = training_of(settings, run)
    reference = run.reference if run.reference is not None else context.network
    teacher = reference.model if training.distillation is not None else None
    changes = len(reference.transformations)
    trainer = RungTrainer(context.evaluator.model, run.task, run.seed, run.device, training, teacher, changes)
    files = FinalistFiles(run.folder / FINALISTS, run.warn)
    race = _Race(finalists, context, settings, run, trainer, files)
    winner = race.run(solve)
    proposal = finalists[winner].proposal
    run.notes["finalists"] = race.rows()
    if settings.training is None:
        if (begun := files.of(proposal).packed()) is not None:
            run.training(BEGUN).replace(begun)
        return winner, None
    teaches = reference if training.distillation is not None else None
    network = trainer.network(race.prepare(winner, solve))

    def on_epoch(record: EpochRecord) -> None:
        race.tell(winner, [record])

    carry_out(network, run, training, files.of(proposal), teaches, on_epoch=on_epoch)
    return winner, network


@dataclass
class _Race:
    """Finalists on their way through the rungs.

    Attributes:
        finalists: The finalists; the others follow :func:`halve_finalists`.
        scores: Scores so far.
        errors: Error of every finalist that failed, by its place.
        told: Epochs of every finalist, by its place, that trackers know, or that were trained before a resume.
    """

    finalists: Sequence[Finalist]
    context: SearchContext
    settings: FinalistSettings
    run_of_stage: StageRun
    trainer: RungTrainer
    files: FinalistFiles
    scores: Scores = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    told: dict[int, int] = field(default_factory=dict)

    def run(self, solve: Callable[[Proposal], Solve | None]) -> int:
        """Train rung after rung, and return the winner's place."""
        run, settings = self.run_of_stage, self.settings
        record = RecordFile(self.files.folder / "rungs.json", Scores, "finalists are measured again", run.warn)
        self.scores = {**(record.read() or {})}
        places = list(range(len(self.finalists)))
        if len(places) == 1:
            return 0
        sizes = rung_sizes(len(places), len(settings.steps))
        with run.log.bar(f"{run.label}: finalists", sum(sizes)) as bar:
            for place in places:
                try:
                    self.prepare(place, solve)
                except Exception as error:
                    if exhausted(error) or is_disk_error(error):
                        raise
                    self._fail(place, error_line(error))
            workload = self._workload()
            executor = executor_of(run.execution, workload, run.warn)
            try:
                for rung, steps in enumerate(settings.steps):
                    places = [place for place in places if place not in self.errors]
                    self._train(places, steps, executor, record, bar)
                    alive = self._best_first([place for place in places if place not in self.errors], steps)
                    if not alive:
                        last = self.errors[max(self.errors)]
                        raise SecateursError(f"the training of every finalist failed; the last one: {last}")
                    left = 1 if rung + 1 == len(settings.steps) else min(len(alive), sizes[rung + 1])
                    for place in alive[left:]:
                        self.files.of(self.finalists[place].proposal).path.unlink(missing_ok=True)
                    places = sorted(alive[:left])
            finally:
                executor.close()
        return places[0]

    def prepare(self, place: int, solve: Callable[[Proposal], Solve | None]) -> EndState:
        """Write the network that a finalist's training starts from, unless it is there, and return it packed."""
        finalist, run = self.finalists[place], self.run_of_stage
        proposal = finalist.proposal
        file = self.files.network(proposal)
        if file.packed() is None:
            network, _ = self.context.realize(proposal, finalist.end, solve(proposal))
            score = measure(network.model, run.task, "search", device=run.device)[run.task.score_name]
            kept = score if math.isfinite(score) else None
            file.save(network.tensors(), {"transformations": list(network.transformations), "score": kept})
        found = self.files.start(proposal)
        if found is None:
            raise SecateursError(f"{file.path} was changed while the run was using it; run the same command again")
        self.scores.setdefault(proposal.candidate.fingerprint, {})["0"] = unpack_checkpoint(found.content)[1]["score"]
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every finalist, for the report."""
        found = []
        for place, finalist in enumerate(self.finalists):
            fingerprint = finalist.proposal.candidate.fingerprint
            scores = sorted((int(steps), score) for steps, score in self.scores.get(fingerprint, {}).items())
            row: dict[str, Any] = {"trial": finalist.trial, "fingerprint": fingerprint}
            if place in self.errors:
                row["error"] = self.errors[place]
            last, score = scores[-1] if scores and place not in self.errors else (0, None)
            found.append({**row, "steps": last, "search_score": score, "scores": [list(one) for one in scores]})
        return found

    def _train(self, places: Sequence[int], steps: int, executor: Any, record: RecordFile[Scores], bar: Bar) -> None:
        """Train finalists up to a rung, and record their scores."""
        run, total = self.run_of_stage, self.trainer.training.epochs * self._steps_per_epoch
        for place in places:
            candidate = self.finalists[place].proposal.candidate
            if str(steps) in self.scores.get(candidate.fingerprint, {}):
                continue
            proposal = Proposal(candidate, steps / total, notes={STEPS: steps})
            self._forget_beyond(proposal, steps)
            self.told.setdefault(place, len(self._epochs(place)))
            executor.submit(Job(place, proposal))
        for event in executor.events():
            if event.line:
                run.log.write(f"{run.label}: finalists: {event.line}", event.level)
            trial = event.finished
            if trial is not None and trial.state == "failed":
                self._fail(trial.number, trial.error)
            elif trial is not None:
                score = trial.metrics[run.task.score_name]
                known = self.scores.setdefault(trial.proposal.candidate.fingerprint, {})
                known[str(steps)] = score if math.isfinite(score) else None
                record.write(self.scores)
                self.tell(trial.number, self._epochs(trial.number)[self.told[trial.number] :])
            bar.update(sum(len(found.keys() - {"0"}) for found in self.scores.values()), f"step {steps}")
            run.stopwatch.save()

    def tell(self, place: int, epochs: Sequence[EpochRecord]) -> None:
        """Tell trackers of epochs of a finalist's training that are new."""
        run, finalist = self.run_of_stage, self.finalists[place]
        for epoch in epochs:
            run.trackers.epoch(finalist.label(run), epoch.epoch, epoch.values(run.task.score_name))
        self.told[place] = self.told.get(place, 0) + len(epochs)

    def _epochs(self, place: int) -> list[EpochRecord]:
        """Return the epochs of a finalist's training so far, those that another process has trained among them."""
        known = self.files.of(self.finalists[place].proposal).load()
        return [] if known is None else epochs_of(known[1])

    def _forget_beyond(self, proposal: Proposal, steps: int) -> None:
        """Remove a training that is further than a rung whose score was lost."""
        file = self.files.of(proposal)
        known = file.load()
        if known is not None and steps_of(known[1], known[0], self._steps_per_epoch) > steps:
            file.path.unlink()

    @property
    def _steps_per_epoch(self) -> int:
        return _steps_per_epoch(self.trainer.training, self.run_of_stage)

    def _best_first(self, places: Sequence[int], steps: int) -> list[int]:
        """Return finalists by their score at a rung; of equal scores the lower trial number comes first."""

        def order(place: int) -> tuple[bool, float, int]:
            finalist = self.finalists[place]
            score = self.scores[finalist.proposal.candidate.fingerprint][str(steps)]
            return finalist.order(place, math.nan if score is None else score, self.run_of_stage.task.score_sign)

        return sorted(places, key=order)

    def _fail(self, place: int, error: str) -> None:
        run = self.run_of_stage
        self.errors[place] = error
        run.log.write(f"{run.label}: finalist {place + 1} failed: {error}", logging.WARNING)

    def _workload(self) -> Workload:
        run, trainer = self.run_of_stage, self.trainer
        threads = run.execution.threads_per_trial

        def pack(device: str) -> Callable[[], Evaluate]:
            # Only a training that leaves this process needs what takes it there.
            from search.executors.shipment import ship

            return ship(trainer, self.context.network.transformations, run.build_task, threads, device)

        def pack_together(device: str) -> PackedWork:
            from search.executors.group_training import PackedEvaluation
            from search.executors.shipment import ship

            shipment = ship(trainer, self.context.network.transformations, run.build_task, threads, device)
            return PackedEvaluation(shipment, device, trainer.training)

        return Workload(trainer.evaluate, pack, self.files, threads, run.execution.device, pack_together)
