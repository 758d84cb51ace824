"""One training of a stage: resumed after a kill, with its history for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.loop import EpochRecord, History, TrainingSettings, train
from evaluators.training.moments import TrainingMoments
from evaluators.training.ranks import Ranks, drawing_layers, require_ranks
from evaluators.training.state import is_complete
from search.run.network import Network
from search.run.stage_run import StageRun
from search.run.steps import TRAINING
from search.stages.base import Stage
from spaces.sparsifiers.base import Sparsifier


class TrainingStage(Stage[TrainingSettings]):
    """A stage that trains the network that enters, and does nothing else."""

    Settings = TrainingSettings
    trains = True

    @property
    def trainings(self) -> Mapping[str, TrainingSettings]:
        """The one training."""
        return {"": self.settings}

    def run(self, network: Network, run: StageRun) -> Network:
        """Return a trained copy of ``network``."""
        return train_network(network, run, self.settings)[0]


def train_network(
    network: Network, run: StageRun, settings: TrainingSettings, sparsifier: Sparsifier | None = None
) -> tuple[Network, History]:
    """Return a trained copy of ``network`` and its epochs; the reference is the teacher where distillation is asked for."""
    trained = network.copy()
    epochs: list[EpochRecord] = []
    with run.log.bar(run.label, settings.epochs, at_most=settings.early_stop is not None) as bar:
        bar.update(0)

        def on_epoch(record: EpochRecord) -> None:
            if sparsifier is not None and not epochs and (used := sparsifier.schedule.get("text")):
                run.log.write(f"{run.label}: {used}")
            epochs.append(record)
            run.trackers.epoch(run.label, record.epoch, record.values(run.task.score_name))
            bar.update(record.epoch, f"loss {record.loss:.3f}, {run.task.score_name} {record.search_score:.4f}")
            run.stopwatch.save()

        reference = run.reference if settings.distillation is not None else None
        history = carry_out(trained, run, settings, run.training(TRAINING), reference, sparsifier, on_epoch)
    if sparsifier is not None and run.execution.training_workers > 1 and (used := sparsifier.schedule.get("text")):
        # Where it decided in other processes, this one knows of it now.
        run.log.write(f"{run.label}: {used}")
    run.notes["history"] = [asdict(record) for record in history.epochs]
    run.notes["seconds"] = dict(history.seconds)
    run.notes["kept_epoch"] = history.kept.epoch
    if history.kept is not history.epochs[-1]:
        run.log.write(f"{run.label}: {_kept(history, run.task.score_name)}")
    if sparsifier is not None:
        run.notes["participation"] = sparsifier.record()
        run.notes["sparsifier"] = sparsifier_note(sparsifier)
        run.notes["remark"] = sparsifier.remark
    moments = None if history.optimizer is None else TrainingMoments.of(history.optimizer, settings)
    return replace(trained, moments=moments), history


def _kept(history: History, score: str) -> str:
    kept, last = history.kept, history.epochs[-1]
    return (
        f"epoch {kept.epoch} of {last.epoch} is kept ({score} on the search split {kept.search_score:.4f}, after the last "
        f"{last.search_score:.4f})"
    )


def carry_out(
    network: Network,
    run: StageRun,
    settings: TrainingSettings,
    checkpoint: FileCheckpoint,
    teacher: Network | None = None,
    sparsifier: Sparsifier | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> History:
    """Train ``network`` in place, here or on several workers, and return its history.

    Args:
        network: The network.
        run: Task, seed and execution.
        settings: The training.
        checkpoint: Place of the training so far.
        teacher: The network to learn from; None without distillation.
        sparsifier: The sparsifier, which has seen no network yet; at the end, that of the whole training.
        on_epoch: Called with the record of every new epoch.
    """
    execution = run.execution
    cuts = () if teacher is None else network.cuts_since(teacher)
    known = checkpoint.load() if execution.training_workers > 1 else None
    if execution.training_workers > 1 and (known is None or not is_complete(known[1], settings)):
        # Only a training that leaves this process needs what takes it there.
        from search.executors.group_executor import training_group
        from search.executors.group_training import PackedTraining, packed

        require_ranks(settings, execution.training_workers)
        if drawing := drawing_layers(network.model):
            run.warn(
                f"draws of dropout differ by training worker ({', '.join(drawing[:3])}): another number of them than "
                f"{execution.training_workers} trains another network"
            )
        training = PackedTraining(
            network=packed(network),
            teacher=None if teacher is None else packed(teacher),
            cuts=cuts,
            sparsifier=sparsifier,
            settings=settings,
            seed=run.seed,
            build_task=run.build_task,
            fingerprint=run.task.fingerprint,
            device=execution.device,
            threads=execution.threads_per_trial,
        )
        with training_group(execution, run.warn) as group:
            group.train(training, checkpoint, on_epoch)
    # Of a training by several processes the last checkpoint is there, whose end is taken up here.
    return train(
        network.model,
        run.task,
        settings,
        seed=run.seed,
        device=run.device,
        checkpoint=checkpoint,
        sparsifier=sparsifier,
        teacher=None if teacher is None else teacher.model,
        cuts=cuts,
        on_epoch=on_epoch,
        ranks=Ranks(0, execution.training_workers, behind=True),
    )


def sparsifier_note(sparsifier: Sparsifier) -> dict[str, Any]:
    """Return, for the report, the ``schedule`` that a sparsifier really used and the ``shares`` asked for and reached."""
    return {"schedule": sparsifier.schedule, "shares": sparsifier.shares()}
