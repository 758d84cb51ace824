"""Steps of a training: batches, losses, gradients and updates of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.task import Batch, Task
from evaluators.training.average import Average
from evaluators.training.compilation import CompiledCalls
from evaluators.training.errors import DivergedError, TrainingError
from evaluators.training.features import FeatureDistance
from evaluators.training.hardware import autocast
from evaluators.training.image_operations import ImageOperations
from evaluators.training.imported import ImportedSettings, OwnLoss, OwnSchedule
from evaluators.training.mixing import Mixed, Mixing
from evaluators.training.optimizers import make_optimizer
from evaluators.training.prefetch import prefetched
from evaluators.training.ranks import Ranks
from evaluators.training.recomputation import running_statistics_kept
from evaluators.training.schedules import learning_rate_factor
from evaluators.training.settings import TrainingSettings
from evaluators.training.shards import shard_statistics
from evaluators.training.state import BegunEpoch
from evaluators.training.step_profile import StepProfile
from spaces.channels.surgery import Cut
from spaces.execution.batch import Nested, not_finite, select, to_device
from spaces.sparsifiers.base import Sparsifier

# On an accelerator, reading the loss waits for it: look at several steps at once.
LOSSES_PER_CHECK = 25


class Session:
    """State of one training that every step reads: network, optimizer, learning rate.

    Attributes:
        rows: Places of the samples of every batch that this rank reads.
    """

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
        ranks: Ranks,
        cuts: Sequence[Cut] = (),
    ) -> None:
        self.model = model
        self.task = task
        self.settings = settings
        self.device = device
        # A sparsifier sees whole batches, and every image of a batch is mixed with the one before it.
        whole = ranks.parts == 1 or sparsifier is not None or settings.mixup is not None or settings.cutmix is not None
        part = settings.batch_size // ranks.parts
        self.rows = range(settings.batch_size) if whole else range(ranks.rank * part, (ranks.rank + 1) * part)
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * settings.epochs
        self.sparsifier = sparsifier
        self.distillation = settings.distillation if teacher is not None else None
        self.teacher = teacher if self.distillation is not None else None
        self.features = self.feature_distance(cuts)
        self.on_step = on_step
        self.ranks = ranks
        self.optimizer = make_optimizer(model, settings.optimizer)
        self.autocast = autocast(settings.autocast, device)
        self.compiled = CompiledCalls(model, device) if settings.compile else None
        self.lr = settings.optimizer.lr
        self.profile = StepProfile()
        self.average = None if settings.ema is None else Average(model, settings.ema)
        self.own_loss = None if settings.loss is None else OwnLoss(settings.loss, device)
        self.own_schedule = OwnSchedule(settings.schedule) if isinstance(settings.schedule, ImportedSettings) else None
        mixes = settings.mixup is not None or settings.cutmix is not None
        self.mixing = Mixing(settings.mixup, settings.cutmix) if mixes else None
        operates = settings.rand_augment is not None or settings.erasing is not None
        self.operations = (
            ImageOperations(settings.rand_augment, settings.erasing or 0.0, task.pixel_scale) if operates else None
        )

    def feature_distance(self, cuts: Sequence[Cut]) -> FeatureDistance | None:
        """Return what compares features of network and teacher, which ``cuts`` lie between; None where none are."""
        if self.teacher is None or self.distillation is None or self.distillation.features is None:
            return None
        size = self.settings.batch_size
        inputs, _ = next(iter(self.task.batches("train", size, limit=size)))
        batch = to_device(inputs, self.device)
        return FeatureDistance(self.model, self.teacher, self.distillation.features, cuts, batch, self.task.forward)

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
        watching = nullcontext() if self.features is None else self.features.watching()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []), watching:
            torch.default_generator.manual_seed(inner)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(inner)
            batches = self.batches(generator)
            if self.operations is None:
                # These work on images of the host.
                batches = prefetched(batches, self.device, self.settings.channels_last)
            first = epoch * self.steps_per_epoch
            self.profile.start()
            for number, (inputs, targets) in enumerate(batches, start=first):
                self.profile.lap("data")
                if begun is not None and number < first + skipped:
                    if number == first + skipped - 1:
                        begun.put_back(self.device)
                    self.profile.start()
                    continue
                losses.append(self.step(number, seed, inputs, targets))
                if len(losses) - checked >= patience:
                    self.require_finite(losses[checked:], epoch, checked, (inputs, targets))
                    checked = len(losses)
                if self.on_step is not None:
                    self.on_step(min(number + 1, self.total_steps), self.total_steps)
                if number + 1 == until_step and number + 1 < first + self.steps_per_epoch:
                    self.require_finite(losses[checked:], epoch, checked)
                    return BegunEpoch.of(losses, self.device)
                self.profile.start()
        if not losses:
            raise TrainingError(f"the task gave no training batch of {self.settings.batch_size} samples; lower batch_size")
        self.require_finite(losses[checked:], epoch, checked)
        return float(torch.stack(losses).double().mean())

    def batches(self, generator: torch.Generator) -> Iterable[Batch]:
        """Return the batches of an epoch, those of several ranks in parts where each needs no more."""
        size = self.settings.batch_size
        if len(self.rows) == size:
            return self.task.batches("train", size, generator)
        return self.task.batch_rows("train", size, generator, self.rows.start, self.rows.stop)

    def step(self, number: int, seed: int, inputs: Nested, targets: Nested) -> Tensor:
        """Train on one batch and return its loss, a detached scalar.

        Args:
            number: Step of the whole training, from 0.
            seed: Seed of the training.
            inputs: Inputs of the batch's :attr:`rows`.
            targets: Their targets.
        """
        settings, sparsifier = self.settings, self.sparsifier
        self.set_rate(number)
        draws = np.random.SeedSequence([seed, number, 1])
        if self.operations is not None and isinstance(inputs, Tensor):
            seeds = _seeds(draws, self.rows.start + len(inputs))
            inputs = self.operations.apply(inputs, seeds[self.rows.start :])
        inputs = to_device(inputs, self.device, settings.channels_last)
        targets = to_device(targets, self.device)
        if sparsifier is not None:
            sparsifier.before_forward(inputs, self.task.labels(targets))
        mixed = None
        if self.mixing is not None and isinstance(inputs, Tensor):
            mixed = self.mixing.mix(inputs, targets, _seeds(draws.spawn(1)[0], 1)[0])
        self.profile.lap("data")
        self.optimizer.zero_grad(set_to_none=True)
        with self.ranks.draws(self.device), nullcontext() if self.compiled is None else self.compiled.active():
            loss = self.gradients(inputs, targets, mixed)
        loss = self.ranks.mean(loss)
        self.ranks.average_gradients(self.model.parameters())
        if settings.shards is not None or settings.batch_norm == "per_rank":
            self.ranks.average_statistics(self.model)
        self.profile.lap("backward")
        if sparsifier is not None:
            sparsifier.after_backward()
        if settings.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), settings.clip_value)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        if sparsifier is not None:
            sparsifier.after_step()
        if self.average is not None:
            self.average.update(self.model, number)
        self.profile.lap("optimizer")
        return loss

    def gradients(self, inputs: Nested, targets: Nested, mixed: Mixed | None) -> Tensor:
        """Compute the gradients of this rank's part of a batch, shard by shard.

        Returns:
            The mean loss of the part with the sparsifier's penalty, a detached scalar.
        """
        whole = (self.settings.shards or 1) == 1 and self.ranks.parts == 1
        shards = 1 if self.settings.shards is None else self.settings.shards // self.ranks.parts
        size = self.settings.batch_size // (shards * self.ranks.parts)
        losses: list[Tensor] = []
        for shard in range(shards):
            start = (self.ranks.rank * shards + shard) * size - self.rows.start
            stop = start + size
            if self.sparsifier is not None and not whole:
                self.sparsifier.before_part(size)
            with self.autocast, shard_statistics(self.model, shard, shards):
                if mixed is not None:
                    loss = self.mixed_loss(mixed if whole else mixed.part(start, stop))
                elif whole or size == len(self.rows):
                    loss = self.loss(inputs, targets)
                else:
                    loss = self.loss(select(inputs, start, stop), select(targets, start, stop))
            if shards > 1:
                loss = loss / shards
            penalty = self.sparsifier.penalty() if self.sparsifier is not None and shard == 0 else None
            if penalty is not None:
                loss = loss + penalty
            self.profile.lap("forward")
            with running_statistics_kept(self.model, self.settings.activation_checkpointing):
                loss.backward()  # type: ignore[no-untyped-call]
            self.profile.lap("backward")
            losses.append(loss.detach())
        return losses[0] if shards == 1 else torch.stack(losses).sum()

    def set_rate(self, number: int) -> None:
        """Give every group of parameters its learning rate for step ``number``, from 0."""
        settings, own = self.settings, self.own_schedule
        if own is not None:
            factor = own.factor(number, self.total_steps)
        else:
            factor = learning_rate_factor(settings.schedule, number, self.total_steps, settings.warmup)  # type: ignore[arg-type]
        self.lr = settings.optimizer.lr * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("rate", 1.0)

    def loss(self, inputs: Nested, targets: Nested) -> Tensor:
        """Return the loss of a batch, with a teacher mixed with the distillation loss, a scalar."""
        outputs = self.task.forward(self.model, self.task.loss_inputs(inputs, targets))
        return self.distilled(self.hard_loss(outputs, targets), outputs, inputs)

    def mixed_loss(self, mixed: Mixed) -> Tensor:
        """Return the loss of a mixed batch: that of both samples' targets by their shares, which is that of mixed targets."""
        outputs = self.task.forward(self.model, mixed.inputs)
        own, other = self.hard_loss(outputs, mixed.targets), self.hard_loss(outputs, mixed.others)
        return self.distilled(mixed.share * own + (1 - mixed.share) * other, outputs, mixed.inputs)

    def hard_loss(self, outputs: Any, targets: Nested) -> Tensor:
        """Return the person's loss, or else the task's, a scalar."""
        if self.own_loss is not None:
            return self.own_loss(outputs, targets)
        return self.task.loss(outputs, targets, self.settings.label_smoothing)

    def distilled(self, loss: Tensor, outputs: Any, inputs: Nested) -> Tensor:
        """Return a loss mixed with the distance from the teacher's answers; without a teacher ``loss`` itself."""
        if self.teacher is None or self.distillation is None:
            return loss
        with torch.no_grad():
            answers = self.task.forward(self.teacher, inputs)
        distance = self.task.distillation_loss(outputs, answers, self.distillation.temperature)
        loss = (1 - self.distillation.weight) * loss + self.distillation.weight * distance
        if self.features is not None:
            loss = loss + self.features.weight * self.features.take()
        return loss

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


def _seeds(draws: np.random.SeedSequence, count: int) -> Sequence[int]:
    """Return ``count`` seeds for torch's generators."""
    return [int(word) for word in draws.generate_state(count, np.uint64) >> np.uint64(1)]
