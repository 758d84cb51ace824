"""Save and restore the state of a training, and identify the training that it belongs to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.task import Task
from evaluators.training.adapters import has_adapters, merged
from evaluators.training.average import Average
from evaluators.training.checkpoint import JSON, Checkpoint, CheckpointError, require_same, unpack_checkpoint
from evaluators.training.optimizers import optimizer_numbers, optimizer_tensors, parameter_names, restore_optimizer
from evaluators.training.settings import TrainingSettings
from spaces.files.json_file import mapping
from spaces.files.recorded_settings import as_recorded
from spaces.sparsifiers.base import Sparsifier

FORMAT = 2


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch of training.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean training loss, including distillation and penalties.
        search_loss: Mean loss on the search split.
        search_score: Mean primary score on the search split.
        lr: Learning rate of the last step.
        seconds: Wall-clock time.
    """

    epoch: int
    loss: float
    search_loss: float
    search_score: float
    lr: float
    seconds: float

    def values(self, score: str) -> dict[str, float]:
        """Return the numbers that trackers are told, by name.

        Args:
            score: Name of the primary score.
        """
        return {"loss": self.loss, score: self.search_score, "lr": self.lr}


@dataclass(frozen=True)
class BegunEpoch:
    """State of a training that stopped inside an epoch, beside network and optimizer.

    Attributes:
        losses: Loss of every step of the epoch so far, float32 of shape ``(steps,)``, on the CPU.
        random: State of torch's global generator behind the last step, by device type: ``cpu`` and, there, ``cuda``.
    """

    losses: Tensor
    random: Mapping[str, Tensor]

    @staticmethod
    def of(losses: Sequence[Tensor], device: torch.device) -> BegunEpoch:
        """Return the state now, behind the last step on ``device``."""
        random = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return BegunEpoch(torch.stack(list(losses)).cpu(), random)

    def put_back(self, device: torch.device) -> None:
        """Put the global generators, which the caller restores afterwards, into the state kept."""
        torch.set_rng_state(self.random["cpu"])
        if device.type == "cuda" and "cuda" in self.random:
            torch.cuda.set_rng_state(self.random["cuda"], device)


@dataclass
class History:
    """The epochs of one training, over all its resumes.

    Attributes:
        epochs: A record per epoch, in order.
        stopped_early: Reason for ending before the last epoch, or empty.
        unsettled: Number of the last epoch in which a sparsifier still changed the network; epochs up to it can't be the best.
        sign: 1.0 if a higher score is better, -1.0 if a lower one is.
        optimizer: State of the optimizer after the last epoch, with early stopping too; None before the end, and where adapters
            were trained.
        uncut: Parameters and buffers from before a sparsifier that was not complete took the rest away; None else.
        begun: State of the epoch that the training stopped inside; None at an epoch's end.
        seconds: Wall-clock seconds of all steps by part, as :class:`.StepProfile` has them.
        keeps_best: True if the best epoch's weights are those that the training hands on.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    stopped_early: str = ""
    unsettled: int = 0
    sign: float = 1.0
    optimizer: OptimizerState | None = None
    uncut: Mapping[str, Tensor] | None = None
    begun: BegunEpoch | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    keeps_best: bool = False

    def steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps so far."""
        return len(self.epochs) * steps_per_epoch + (0 if self.begun is None else len(self.begun.losses))

    @property
    def best(self) -> EpochRecord | None:
        """The first epoch with the best search score after ``unsettled``, NaN the worst; None if there is none yet."""
        return max(self.epochs[self.unsettled :], key=self._order, default=None)

    @property
    def kept(self) -> EpochRecord:
        """The epoch whose weights the training hands on."""
        best = self.best if self.keeps_best else None
        return self.epochs[-1] if best is None else best

    def _order(self, record: EpochRecord) -> float:
        return -math.inf if math.isnan(record.search_score) else self.sign * record.search_score


def training_identity(
    model: nn.Module,
    task: Task,
    settings: TrainingSettings,
    seed: int,
    sparsifier: Sparsifier | None,
    teacher: nn.Module | None,
) -> dict[str, JSON]:
    """Return the identity of a training as JSON data; a checkpoint resumes only a training of equal identity."""
    options = sparsifier.settings if sparsifier is not None else None
    described = {
        "training": asdict(settings),
        "seed": seed,
        "task": task.fingerprint,
        "sparsifier": type(sparsifier).__name__ if sparsifier is not None else None,
        "sparsifier_settings": asdict(options) if options is not None else None,
        "teacher": teacher is not None and settings.distillation is not None,
        "model": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
    }
    plain: dict[str, JSON] = json.loads(json.dumps(described))
    return plain


def save_state(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sparsifier: Sparsifier | None,
    average: Average | None,
    best: Mapping[str, Tensor],
    history: History,
    described: Mapping[str, JSON],
) -> None:
    """Save the state that the next epoch depends on."""
    parts: dict[str, Mapping[str, Tensor]] = {
        "model": model.state_dict(),
        "optimizer": optimizer_tensors(optimizer),
        "sparsifier": sparsifier.state_dict() if sparsifier is not None else {},
        "average": average.tensors if average is not None else {},
        "best": best,
        "begun": {} if history.begun is None else {"losses": history.begun.losses, **history.begun.random},
    }
    tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    data = {
        "format": FORMAT,
        "identity": dict(described),
        "epochs": [asdict(record) for record in history.epochs],
        "stopped_early": history.stopped_early,
        "unsettled": history.unsettled,
        "trained": parameter_names(optimizer, model),
        "numbers": optimizer_numbers(optimizer),
        "seconds": dict(history.seconds),
        "keeps_best": history.keeps_best,
    }
    checkpoint.save(tensors, data)


def restore_state(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sparsifier: Sparsifier | None,
    average: Average | None,
    described: Mapping[str, JSON],
    settings: TrainingSettings,
) -> tuple[History, dict[str, Tensor]]:
    """Restore the state of :func:`save_state`, and return the history and the best epoch's weights.

    An option that the checkpoint does not know counts as at its default.

    Raises:
        CheckpointError: The checkpoint belongs to another training; the message names the difference.
    """
    loaded = checkpoint.load()
    if loaded is None:
        return History(), {}
    tensors, data = loaded
    if data.get("format") != FORMAT:
        raise CheckpointError(
            f"expected a training checkpoint of format {FORMAT}, got {data.get('format')!r}; start in a new run folder"
        )
    require_same(data["identity"], _as_saved(described, data["identity"], settings, sparsifier))
    parts = _parts(tensors)
    model.load_state_dict(parts["model"])
    restore_optimizer(optimizer, parts["optimizer"], data.get("numbers"))
    if average is not None:
        average.restore(parts["average"])
    if sparsifier is not None:
        sparsifier.load_state_dict(parts["sparsifier"])
    history = History(epochs_of(data), data["stopped_early"], data["unsettled"])
    history.seconds = data.get("seconds", {})
    history.keeps_best = data.get("keeps_best", bool(parts["best"]))
    if inside := parts["begun"]:
        history.begun = BegunEpoch(inside.pop("losses"), inside)
    return history, parts["best"]


def _as_saved(
    described: Mapping[str, JSON], saved: JSON, settings: TrainingSettings, sparsifier: Sparsifier | None
) -> dict[str, JSON]:
    """Return the identity of a training without options at their default that a checkpoint's identity does not know."""
    known = dict(described)
    groups = {"training": settings, "sparsifier_settings": None if sparsifier is None else sparsifier.settings}
    for group, options in groups.items():
        if options is not None and isinstance(recorded := mapping(saved, "identity").get(group), Mapping):
            known[group] = json.loads(json.dumps(as_recorded(options, recorded)))
    return known


def is_complete(data: Mapping[str, JSON], settings: TrainingSettings) -> bool:
    """Return whether a saved training has come to its end.

    Args:
        data: Data of a checkpoint of :func:`save_state`.
        settings: The training.
    """
    return bool(data["stopped_early"]) or len(data["epochs"]) >= settings.epochs


def epochs_of(data: Mapping[str, JSON]) -> list[EpochRecord]:
    """Return the epochs of a saved training, from the data of a checkpoint of :func:`save_state`."""
    records: list[dict[str, Any]] = data["epochs"]
    return [EpochRecord(**record) for record in records]


def steps_of(data: Mapping[str, JSON], tensors: Mapping[str, Tensor], steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of a saved training.

    Args:
        data: Data of a checkpoint of :func:`save_state`.
        tensors: Its tensors.
        steps_per_epoch: Steps of an epoch.
    """
    begun = tensors.get("begun/losses")
    return len(data["epochs"]) * steps_per_epoch + (0 if begun is None else len(begun))


@dataclass(frozen=True)
class OptimizerState:
    """State of an optimizer at the end of a training: momentum, second moments, steps.

    Attributes:
        tensors: State tensors, named as by :func:`evaluators.training.optimizers.optimizer_tensors`.
        names: Names of the parameters, by position.
    """

    tensors: Mapping[str, Tensor]
    names: Sequence[str]

    @staticmethod
    def of(optimizer: torch.optim.Optimizer, model: nn.Module) -> OptimizerState:
        """Return the state of the optimizer of ``model``; its tensors are not copied."""
        return OptimizerState(optimizer_tensors(optimizer), parameter_names(optimizer, model))

    def put_into(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Copy the state to another training's optimizer, for parameters of ``model`` of equal name and shape."""
        position = {name: place for place, name in enumerate(parameter_names(optimizer, model))}
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        found: dict[str, Tensor] = {}
        for key, value in self.tensors.items():
            place, _, entry = key.partition(".")
            name = self.names[int(place)]
            if name in position and (entry == "step" or value.shape == shapes[name]):
                found[f"{position[name]}.{entry}"] = value
        restore_optimizer(optimizer, found)


def end_of(content: bytes) -> tuple[dict[str, Tensor], OptimizerState]:
    """Return the weights that a training hands on (of the last epoch or of the best, with ``ema`` averaged) and its optimizer's
    state, which is empty where adapters were trained.

    Args:
        content: A packed checkpoint of :func:`save_state`.
    """
    tensors, data = unpack_checkpoint(content)
    parts = _parts(tensors)
    keeps_best = parts["best"] and data.get("keeps_best", True)
    weights = parts["best"] if keeps_best else {**parts["model"], **parts["average"]}
    if has_adapters(weights):
        return merged(weights), OptimizerState({}, ())
    return weights, OptimizerState(parts["optimizer"], data["trained"])


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    names = ("model", "optimizer", "sparsifier", "average", "best", "begun")
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for path, tensor in tensors.items():
        part, _, name = path.partition("/")
        parts[part][name] = tensor
    return parts
