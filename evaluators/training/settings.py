"""Define the options of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from evaluators.training.adapters import AdapterSettings
from evaluators.training.average import EmaSettings
from evaluators.training.features import FeatureSettings
from evaluators.training.image_operations import RandAugmentSettings
from evaluators.training.imported import ImportedSettings
from evaluators.training.kept_epoch import KeepEpoch
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.schedules import Schedule

Autocast = Literal["auto", "off", "bf16"]


@dataclass(frozen=True)
class DistillationSettings:
    """Options of learning from the reference network (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

    Attributes:
        weight: Share of the distillation loss, from 0 to 1; the task's loss has the rest.
        temperature: Divisor of both networks' logits, above 0; higher is softer.
        features: Options of learning from the outputs of the reference network's parts besides; null for its outputs alone.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    weight: float = 0.5
    temperature: float = 4.0
    features: FeatureSettings | None = None

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight: expected a number from 0 to 1, got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")


@dataclass(frozen=True)
class EarlyStopSettings:
    """Options of stopping when the score on the search split stops rising.

    Attributes:
        patience: Epochs without a new best score after which training ends; the best epoch's weights are kept.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    patience: int = 5

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.patience < 1:
            raise ValueError(f"patience: expected at least 1 epoch, got {self.patience}")


@dataclass(frozen=True)
class TrainingSettings:
    """Options of :func:`evaluators.training.loop.train`.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples per step; a last incomplete batch is dropped.
        shards: Parts that a batch is split into, computed one after the other and their gradients added up, for a step in the
            memory of a part (gradient accumulation); each has statistics of BatchNorm of its own, and running ones move once a
            step by their mean. None for whole batches.
        batch_norm: Statistics of BatchNorm where several training workers share a batch: ``synchronized``, of the whole batch,
            as one worker has them; ``shards``, of every shard, wherever it is computed; or ``per_rank``, of each worker's part,
            so that the network depends on their number. None for ``shards`` beside ``shards``, else ``synchronized``.
        optimizer: The optimizer and its highest learning rate.
        schedule: ``one_cycle``, ``cosine`` or ``constant``; see :mod:`evaluators.training.schedules`. Or an import path with
            arguments, ``{name: ..., arguments: {...}}``: a function of (step, steps in all) that gives a multiple of
            ``optimizer.lr``, or a class of ``torch.optim.lr_scheduler``, which is stepped after every step of the optimizer.
        warmup: Share of the steps in which the learning rate rises.
        label_smoothing: Share of the target spread over all classes, from 0 to below 1.
        distillation: Options of learning from the reference network as well, or None for the task's loss alone.
        autocast: Use of bfloat16: ``auto`` if the hardware computes in it natively, ``bf16`` always, ``off`` never.
        channels_last: Whether networks on images run in channels-last layout while they train.
        early_stop: Condition for ending before ``epochs``, or None for never.
        clip_norm: Largest norm of the gradient, or None for no limit.
        clip_value: Largest size of an element of the gradient, or None for no limit.
        loss: A loss by import path, ``{name: ..., arguments: {...}}``: a function of outputs and targets, or a class of such
            functions; None for the task's, which is also what is measured.
        ema: Options of the moving average of the weights, which is then what is scored and handed on; None for none.
        mixup: Parameter of the beta distribution of mixup (Zhang et al. 2018, arXiv 1710.09412); None for none.
        cutmix: Parameter of the beta distribution of cutmix (Yun et al. 2019, arXiv 1905.04899); None for none. With both, each
            batch has one of them, drawn with equal odds.
        rand_augment: Options of RandAugment on every image, behind the augmentation of the data; None for none.
        erasing: Probability of erasing a rectangle of an image (Zhong et al. 2020, arXiv 1708.04896); None for none.
        keep_epoch: Epoch whose weights are handed on: ``last``; ``best``, by the score on the search split; or ``auto``, the
            best where its lead over the last is more than two standard errors of their difference (of a score that is no share,
            more than 2 %), and with ``early_stop``, else the last. Of a training with a sparsifier ``auto`` is the last.
        train_only: Parameters that are trained, while others stay: the words ``norms``, ``biases`` and ``head``, and name
            patterns; None for all. Statistics of BatchNorm follow the batches in any case.
        adapters: Options of low-rank adapters, which are trained in place of everything else, ``train_only`` left out, and are
            part of the weights at the end; None for none.
        compile: Whether steps run compiled by ``torch.compile``, which takes from half a minute to minutes once a training, and
            rounds otherwise; measurements don't.
        activation_checkpointing: Whether intermediate outputs are computed again in the backward pass and not held, by what a
            network of transformers or timm offers for that; the same results in less memory and more time.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: int
    batch_size: int = 128
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: Schedule | ImportedSettings = "one_cycle"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    distillation: DistillationSettings | None = None
    autocast: Autocast = "auto"
    channels_last: bool = True
    early_stop: EarlyStopSettings | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    loss: ImportedSettings | None = None
    ema: EmaSettings | None = None
    mixup: float | None = None
    cutmix: float | None = None
    rand_augment: RandAugmentSettings | None = None
    erasing: float | None = None
    train_only: tuple[str, ...] | None = None
    adapters: AdapterSettings | None = None
    shards: int | None = None
    batch_norm: Literal["synchronized", "shards", "per_rank"] | None = None
    keep_epoch: KeepEpoch = "auto"
    compile: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {self.epochs}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: expected at least 2, got {self.batch_size}")
        if self.shards is not None:
            require_shards(self.batch_size, self.shards)
        if self.batch_norm is not None and (self.batch_norm == "shards") is not (self.shards is not None):
            raise ValueError(
                "batch_norm: expected shards exactly where shards says how many there are, got "
                f"{self.batch_norm} with shards {self.shards}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: expected a share from 0 to below 1, got {self.warmup}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share from 0 to below 1, got {self.label_smoothing}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm: expected a number above 0, got {self.clip_norm}")
        if self.clip_value is not None and not self.clip_value > 0:
            raise ValueError(f"clip_value: expected a number above 0, got {self.clip_value}")
        if self.loss is not None and self.label_smoothing:
            raise ValueError("label_smoothing: expected 0 beside a loss of one's own, which it has no effect on")
        for name in ("mixup", "cutmix"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        if self.erasing is not None and not 0 < self.erasing <= 1:
            raise ValueError(f"erasing: expected a probability above 0 and up to 1, got {self.erasing}")
        if self.train_only is not None and not self.train_only:
            raise ValueError(
                "train_only: expected norms, biases, head or name patterns, got an empty list; null trains everything"
            )


def require_shards(batch_size: int, shards: int) -> None:
    """Raise if a batch can't be split into so many equal parts of two samples and more.

    Raises:
        ValueError: It can't; the message begins with ``shards`` and names the nearest batch size that fits.
    """
    if shards < 1:
        raise ValueError(f"shards: expected at least 1, got {shards}")
    if batch_size % shards or batch_size < 2 * shards:
        nearest = max(2, round(batch_size / shards)) * shards
        raise ValueError(
            f"shards: expected a batch_size that is a multiple of {shards}, with at least 2 samples in each part, got "
            f"{batch_size}; the nearest is {nearest}"
        )
