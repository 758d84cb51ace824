"""Train a network: the one training loop, used by every stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.task import Task
from evaluators.tasks.measure import measure
from evaluators.training.checkpoint import Checkpoint
from evaluators.training.hardware import autocast, repeatable
from evaluators.training.layout import channels_last
from evaluators.training.optimizers import make_optimizer
from evaluators.training.schedules import learning_rate_factor
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
from spaces.errors import SecateursError
from spaces.execution.batch import Nested, not_finite, to_device
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.sparsifiers.base import Sparsifier

__all__ = ["DivergedError", "EpochRecord", "History", "TrainingError", "TrainingSettings", "train"]

# On an accelerator, reading the loss waits for it: look at several steps at once.
LOSSES_PER_CHECK = 25


class TrainingError(SecateursError):
    """A training cannot start with the given network, data and settings."""


class DivergedError(SecateursError):
    """The loss became infinite or not a number."""


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
    stop_when_finished: bool = False,
    until: int | None = None,
    until_step: int | None = None,
    moments: OptimizerState | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> History:
    """Train ``model`` in place on the train split, scoring it on the search split after every epoch.

    All randomness (shuffling, augmentation, dropout) derives from ``seed`` and the epoch's number, so that a killed
    training resumes from its checkpoint to the same bits. With ``early_stop`` the model ends with the best epoch's
    weights. Afterwards the model is in evaluation mode, on ``device``, in the default memory layout.

    Args:
        model: The network; must have parameters that require gradients.
        task: Data, loss and score.
        settings: Epochs, batch size, optimizer, schedule.
        seed: Seed of all randomness.
        device: Device to train on.
        checkpoint: Storage to resume from, if it holds a state, and to save to after every epoch; None for neither.
        sparsifier: Hooks into every step, or None.
        teacher: The reference network, used in evaluation mode if ``settings.distillation`` is set.
        stop_when_finished: Whether training ends after the epoch in which the sparsifier is finished.
        until: Number of epochs to stop after, at most ``settings.epochs``; the schedule stays that of the whole training, and
            another call with the same checkpoint resumes it.
        until_step: Number of optimizer steps to stop after, also inside an epoch and then without a record of that epoch; the
            schedule stays that of the whole training, and another call with the same checkpoint resumes it to the same bits.
            For a training without a sparsifier.
        moments: Optimizer state of another training to start with, if ``checkpoint`` holds no state.
        on_epoch: Called with every new epoch's record, after its checkpoint was saved.
        on_step: Called after every step with the number of steps done and the largest number there can be.

    Returns:
        The records of all epochs, including those before a resume.

    Raises:
        TrainingError: No trainable parameter, no full batch, or distillation without a teacher.
        DivergedError: The loss became infinite or not a number.
        CheckpointError: The checkpoint belongs to another training.
    """
    steps_per_epoch = task.size("train") // settings.batch_size
    _require_trainable(model, task, settings, teacher, steps_per_epoch)
    model.to(device)
    if teacher is not None:
        teacher.to(device)
    if sparsifier is not None:
        sparsifier.trace(model, to_device(task.traced_inputs(), device), task.forward)
    session = _Session(model, task, settings, device, steps_per_epoch, sparsifier, teacher, on_step)
    try:
        with repeatable(device), channels_last(model, settings.channels_last):
            last = settings.epochs if until is None else min(until, settings.epochs)
            return _epochs(session, seed, checkpoint, stop_when_finished, last, until_step, moments, on_epoch)
    finally:
        model.eval()


class _Session:
    """State of one training that every step reads: network, optimizer, learning rate."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: TrainingSettings,
        device: torch.device,
        steps_per_epoch: int,
        sparsifier: Sparsifier | None,
        teacher: nn.Module | None,
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        self.model = model
        self.task = task
        self.settings = settings
        self.device = device
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * settings.epochs
        self.sparsifier = sparsifier
        self.distillation = settings.distillation if teacher is not None else None
        self.teacher = teacher if self.distillation is not None else None
        self.on_step = on_step
        self.optimizer = make_optimizer(model, settings.optimizer)
        self.autocast = autocast(settings.autocast, device)
        self.lr = settings.optimizer.lr

    def epoch(self, epoch: int, seed: int, begun: BegunEpoch | None, until_step: int | None) -> float | BegunEpoch:
        """Train for one epoch and return its mean loss, or its state where it stops inside.

        Args:
            epoch: Number of the epoch, from 0.
            seed: Seed of the training.
            begun: State of the epoch, where an earlier call has stopped inside.
            until_step: Number of steps of the whole training to stop after; None for the epoch's end.
        """
        shuffle, inner = (int(word) for word in np.random.SeedSequence([seed, epoch]).generate_state(2, np.uint32))
        generator = torch.Generator().manual_seed(shuffle)
        losses = [] if begun is None else list(begun.losses.unbind())
        skipped = checked = len(losses)
        patience = 1 if self.device.type == "cpu" else LOSSES_PER_CHECK
        self.model.train()
        # Dropout and the like draw from torch's global generator: seed it for this epoch, and put it back.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.default_generator.manual_seed(inner)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(inner)
            batches = self.task.batches("train", self.settings.batch_size, generator)
            first = epoch * self.steps_per_epoch
            for number, (inputs, targets) in enumerate(batches, start=first):
                if begun is not None and number < first + skipped:
                    if number == first + skipped - 1:
                        begun.put_back(self.device)
                    continue
                losses.append(self.step(number, inputs, targets))
                if len(losses) - checked >= patience:
                    self.require_finite(losses[checked:], epoch, checked, (inputs, targets))
                    checked = len(losses)
                if self.on_step is not None:
                    self.on_step(min(number + 1, self.total_steps), self.total_steps)
                if number + 1 == until_step and number + 1 < first + self.steps_per_epoch:
                    self.require_finite(losses[checked:], epoch, checked)
                    return BegunEpoch.of(losses, self.device)
        if not losses:
            raise TrainingError(f"the task gave no training batch of {self.settings.batch_size} samples; lower batch_size")
        self.require_finite(losses[checked:], epoch, checked)
        return float(torch.stack(losses).double().mean())

    def step(self, number: int, inputs: Nested, targets: Nested) -> Tensor:
        """Train on one batch and return its loss, a detached scalar."""
        settings, sparsifier = self.settings, self.sparsifier
        factor = learning_rate_factor(settings.schedule, number, self.total_steps, settings.warmup)
        self.lr = settings.optimizer.lr * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        inputs = to_device(inputs, self.device, settings.channels_last)
        targets = to_device(targets, self.device)
        if sparsifier is not None:
            sparsifier.before_forward(inputs, self.task.labels(targets))
        with self.autocast:
            loss = self.loss(inputs, targets)
        if sparsifier is not None:
            penalty = sparsifier.penalty()
            if penalty is not None:
                loss = loss + penalty
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if sparsifier is not None:
            sparsifier.after_backward()
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        if sparsifier is not None:
            sparsifier.after_step()
        return loss.detach()

    def loss(self, inputs: Nested, targets: Nested) -> Tensor:
        """Return the task's loss, with a teacher mixed with the distillation loss, a scalar."""
        outputs = self.task.forward(self.model, self.task.loss_inputs(inputs, targets))
        loss = self.task.loss(outputs, targets, self.settings.label_smoothing)
        if self.teacher is None or self.distillation is None:
            return loss
        with torch.no_grad():
            answers = self.task.forward(self.teacher, inputs)
        distance = self.task.distillation_loss(outputs, answers, self.distillation.temperature)
        return (1 - self.distillation.weight) * loss + self.distillation.weight * distance

    def require_finite(self, losses: list[Tensor], epoch: int, first: int, batch: Nested = None) -> None:
        """Raise DivergedError if one of ``losses``, those from step ``first`` of the epoch on, is not finite; name its entry.

        Args:
            losses: Losses of steps, scalars.
            epoch: The epoch, from 0.
            first: Step of the first of them.
            batch: Inputs and targets of the last of them, which are looked at for the reason.
        """
        if not losses:
            return
        for offset, value in enumerate(torch.stack(losses).tolist()):
            if not math.isfinite(value):
                held = not_finite({"inputs": batch[0], "targets": batch[1]}) if batch is not None else None
                if held is not None:
                    raise DivergedError(
                        f"the training loss became {value} at step {first + offset + 1} of epoch {epoch + 1}: {held}; expected "
                        "finite numbers in every batch"
                    )
                raise DivergedError(
                    f"the training loss became {value} at step {first + offset + 1} of epoch {epoch + 1} (learning "
                    f"rate {self.lr:.3g}); try a lower optimizer.lr, a longer warmup, clip_norm: 1.0, or autocast: off"
                )


def _epochs(
    session: _Session,
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
    history, best = History(), dict[str, Tensor]()
    described = training_identity(model, task, settings, seed, sparsifier, session.teacher) if checkpoint is not None else {}
    if checkpoint is not None:
        history, best = restore_state(checkpoint, model, session.optimizer, sparsifier, described)
    history.sign = task.score_sign
    if moments is not None and not history.epochs and history.begun is None:
        moments.put_into(session.optimizer, model)
    with evaluation_mode(session.teacher):
        for epoch in range(len(history.epochs), last):
            if history.stopped_early or (until_step is not None and history.steps(session.steps_per_epoch) >= until_step):
                break
            began = time.perf_counter()
            loss = session.epoch(epoch, seed, history.begun, until_step)
            if isinstance(loss, BegunEpoch):
                history.begun = loss
                if checkpoint is not None:
                    save_state(checkpoint, model, session.optimizer, sparsifier, best, history, described)
                break
            history.begun = None
            measured = measure(model, task, "search", device=session.device)
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
            elif settings.early_stop is not None:
                leader = history.best
                if leader is record:
                    best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                elif leader is not None and record.epoch - leader.epoch >= settings.early_stop.patience:
                    history.stopped_early = (
                        f"{task.score_name} on the search split has not {'risen' if task.score_sign > 0 else 'fallen'} for "
                        f"{settings.early_stop.patience} epochs"
                    )
            if stop_when_finished and sparsifier is not None and sparsifier.finished and epoch + 1 < settings.epochs:
                history.stopped_early = f"{type(sparsifier).__name__} has reached its aim"
            if checkpoint is not None:
                save_state(checkpoint, model, session.optimizer, sparsifier, best, history, described)
            if on_epoch is not None:
                on_epoch(record)
    if settings.early_stop is not None and best and (until_step is None or history.stopped_early):
        model.load_state_dict(best)
    if sparsifier is not None:
        if not sparsifier.complete:
            history.uncut = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        sparsifier.finish()
    history.optimizer = OptimizerState.of(session.optimizer, model)
    return history


def _require_trainable(
    model: nn.Module, task: Task, settings: TrainingSettings, teacher: nn.Module | None, steps_per_epoch: int
) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"{type(model).__name__} has no parameter that requires a gradient: nothing can be trained")
    if steps_per_epoch == 0:
        raise TrainingError(
            f"batch_size {settings.batch_size} is larger than the training split of {task.size('train')} samples; "
            "lower batch_size or search_size"
        )
    if settings.distillation is not None and teacher is None:
        raise TrainingError("distillation is set and there is no reference network to learn from; remove it here")
    if settings.distillation is not None and task.model_gives_losses:
        raise TrainingError("distillation compares outputs, and this network gives losses in training; remove it here")
    if teacher is model:
        raise TrainingError("the teacher is the network that is trained; give it a copy")
