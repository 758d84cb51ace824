"""Train a network: the one training loop, used by every stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from evaluators.task import Task
from evaluators.tasks.measure import measure
from evaluators.training.adapters import adapted
from evaluators.training.average import averaged
from evaluators.training.checkpoint import Checkpoint
from evaluators.training.errors import DivergedError, TrainingError
from evaluators.training.hardware import repeatable
from evaluators.training.kept_epoch import clearly_better, samples_of_score
from evaluators.training.layout import channels_last
from evaluators.training.parameter_groups import only_trained
from evaluators.training.ranks import Ranks, require_ranks, synchronized_statistics
from evaluators.training.recipe import require_trainable
from evaluators.training.recomputation import recomputing
from evaluators.training.session import Session
from evaluators.training.settings import TrainingSettings
from evaluators.training.state import (
    BegunEpoch,
    EpochRecord,
    History,
    OptimizerState,
    restore_state,
    save_state,
    training_identity,
)
from spaces.channels.surgery import Cut
from spaces.execution.batch import to_device
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.sparsifiers.base import Sparsifier

__all__ = ["DivergedError", "EpochRecord", "History", "TrainingError", "TrainingSettings", "train"]


def train(
    model: nn.Module,
    task: Task,
    settings: TrainingSettings,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    sparsifier: Sparsifier | None = None,
    teacher: nn.Module | None = None,
    cuts: Sequence[Cut] = (),
    stop_when_finished: bool = False,
    until: int | None = None,
    until_step: int | None = None,
    moments: OptimizerState | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> History:
    """Train ``model`` in place on the train split, scoring it on the search split after every epoch.

    All randomness (shuffling, augmentation, dropout) derives from ``seed`` and the epoch's number, so that a killed
    training resumes from its checkpoint to the same bits. The model ends with the last epoch's weights or the best one's, as
    ``keep_epoch`` says, with ``ema`` averaged ones. Afterwards the model is in evaluation mode, on ``device``, in the default
    memory layout.

    Args:
        model: The network; must have parameters that require gradients.
        task: Data, loss and score.
        settings: Epochs, batch size, optimizer, schedule.
        seed: Seed of all randomness.
        device: Device to train on.
        checkpoint: Storage to resume from, if it holds a state, and to save to after every epoch; None for neither.
        sparsifier: Hooks into every step, or None.
        teacher: The reference network, used in evaluation mode if ``settings.distillation`` is set.
        cuts: Cuts between the teacher and ``model``, in order, by which their features are compared.
        stop_when_finished: Whether training ends after the epoch in which the sparsifier is finished.
        until: Number of epochs to stop after, at most ``settings.epochs``; the schedule stays that of the whole training, and
            another call with the same checkpoint resumes it.
        until_step: Number of optimizer steps to stop after, also inside an epoch and then without a record of that epoch; the
            schedule stays that of the whole training, and another call with the same checkpoint resumes it to the same bits.
            For a training without a sparsifier.
        moments: Optimizer state of another training to start with, if ``checkpoint`` holds no state.
        on_epoch: Called with every new epoch's record, after its checkpoint was saved.
        on_step: Called after every step with the number of steps done and the largest number there can be.
        ranks: Place of this process among several that train the same network together, each called alike, with the weights
            and the checkpoint's content of all; None for one alone. Without draws in the network the number of ranks changes
            nothing but the last bits, unless BatchNorm takes its statistics ``per_rank``. The first rank alone saves.

    Returns:
        The records of all epochs, including those before a resume.

    Raises:
        TrainingError: Network, data and settings don't fit each other, such as distillation without a teacher.
        DivergedError: The loss became infinite or not a number.
        CheckpointError: The checkpoint belongs to another training.
    """
    ranks = Ranks() if ranks is None else ranks
    require_trainable(model, task, settings, teacher, sparsifier)
    if ranks.together:
        require_ranks(settings, ranks.size)
    steps_per_epoch = task.size("train") // settings.batch_size
    model.to(device)
    if teacher is not None:
        teacher.to(device)
    if sparsifier is not None:
        sparsifier.trace(model, to_device(task.traced_inputs(), device), task.forward)
    try:
        with (
            only_trained(model, settings.train_only, task, device)
            if settings.adapters is None
            else adapted(model, settings.adapters, settings.train_only, task, device, seed),
            repeatable(device),
            channels_last(model, settings.channels_last),
            synchronized_statistics(model, ranks if _synchronized(settings) else Ranks()),
            recomputing(model, settings.activation_checkpointing),
        ):
            session = Session(model, task, settings, device, steps_per_epoch, sparsifier, teacher, on_step, ranks, cuts)
            last = settings.epochs if until is None else min(until, settings.epochs)
            return _epochs(session, seed, checkpoint, stop_when_finished, last, until_step, moments, on_epoch)
    finally:
        model.eval()


def _epochs(
    session: Session,
    seed: int,
    checkpoint: Checkpoint | None,
    stop_when_finished: bool,
    last: int,
    until_step: int | None,
    moments: OptimizerState | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> History:
    """Train for the remaining epochs and leave the model with its final weights."""
    model, task, settings, sparsifier = session.model, session.task, session.settings, session.sparsifier
    if sparsifier is not None:
        sparsifier.start(model, session.total_steps)
        sparsifier.bind(session.optimizer)
        if session.ranks.together:
            sparsifier.join(session.ranks.gather)
    history, best = History(), dict[str, Tensor]()
    described = training_identity(model, task, settings, seed, sparsifier, session.teacher) if checkpoint is not None else {}
    if settings.batch_norm == "per_rank":
        described = {**described, "ranks": session.ranks.size}
    if checkpoint is not None:
        history, best = restore_state(checkpoint, model, session.optimizer, sparsifier, session.average, described, settings)
    history.sign = task.score_sign
    follows_best = _follows_best(settings, sparsifier)
    samples = samples_of_score(task) if follows_best else None
    session.profile.restore(history.seconds)
    history.seconds = session.profile.seconds
    if moments is not None and not history.epochs and history.begun is None:
        moments.put_into(session.optimizer, model)
    with evaluation_mode(session.teacher):
        for epoch in range(len(history.epochs), last):
            if history.stopped_early or (until_step is not None and history.steps(session.steps_per_epoch) >= until_step):
                break
            session.ranks.require_present(settings)
            began = time.perf_counter()
            loss = session.epoch(epoch, seed, history.begun, until_step)
            if isinstance(loss, BegunEpoch):
                history.begun = loss
                if checkpoint is not None and session.ranks.first:
                    save_state(checkpoint, model, session.optimizer, sparsifier, session.average, best, history, described)
                break
            history.begun = None
            session.ranks.require_same(model, sparsifier)
            with averaged(model, session.average):
                measured = session.ranks.agreed(measure(model, task, "search", device=session.device), session.device)
            record = EpochRecord(
                epoch=epoch + 1,
                loss=loss,
                search_loss=measured["loss"],
                search_score=measured[task.score_name],
                lr=session.lr,
                seconds=time.perf_counter() - began,
            )
            history.epochs.append(record)
            if sparsifier is not None and not sparsifier.complete:
                history.unsettled = record.epoch
            elif follows_best and (leader := history.best) is not None:
                patience = math.inf if settings.early_stop is None else settings.early_stop.patience
                if leader is record:
                    with averaged(model, session.average):
                        best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                elif record.epoch - leader.epoch >= patience:
                    history.stopped_early = (
                        f"{task.score_name} on the search split has not {'risen' if task.score_sign > 0 else 'fallen'} for "
                        f"{patience} epochs"
                    )
                history.keeps_best = bool(best) and _keeps_best(settings, history, leader, samples)
            if stop_when_finished and sparsifier is not None and sparsifier.finished and epoch + 1 < settings.epochs:
                history.stopped_early = f"{type(sparsifier).__name__} has reached its aim"
            if checkpoint is not None and session.ranks.first:
                save_state(checkpoint, model, session.optimizer, sparsifier, session.average, best, history, described)
            if on_epoch is not None:
                on_epoch(record)
    if session.average is not None:
        session.average.put_into(model)
    if history.keeps_best and (until_step is None or history.stopped_early):
        model.load_state_dict(best)
    if sparsifier is not None:
        if not sparsifier.complete:
            history.uncut = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        sparsifier.finish()
    if settings.adapters is None:
        history.optimizer = OptimizerState.of(session.optimizer, model)
    return history


def _follows_best(settings: TrainingSettings, sparsifier: Sparsifier | None) -> bool:
    """Return True if the weights of the best epoch so far are held; a sparsifier reaches what it trains towards last."""
    if settings.early_stop is not None or settings.keep_epoch == "best":
        return True
    return settings.keep_epoch == "auto" and sparsifier is None


def _keeps_best(settings: TrainingSettings, history: History, best: EpochRecord, samples: int | None) -> bool:
    if settings.keep_epoch == "best" or (settings.keep_epoch == "auto" and settings.early_stop is not None):
        return True
    if settings.keep_epoch == "last":
        return False
    sign = history.sign
    return clearly_better(sign * best.search_score, sign * history.epochs[-1].search_score, samples)


def _synchronized(settings: TrainingSettings) -> bool:
    return settings.shards is None and settings.batch_norm != "per_rank"
