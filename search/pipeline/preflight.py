"""Checks of storage, device, model and data before a run starts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from search.config.extras import require_extras
from search.output.numbers import format_count
from search.pipeline.plausibility import ENOUGH, require_dependent_loss, require_informative_loss, score_at_chance
from search.pipeline.start import Start
from search.run.stage_run import device_of
from search.stages.base import PlacedStage, placed_stages
from spaces.errors import SecateursError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.task import Batch, Split, Task
    from search.config.loading import Config
    from spaces.execution.batch import Nested

_SCORED = 100
"""Samples that the score of the given network is measured on: enough to notice images prepared otherwise than in training."""


@contextmanager
def named(step: str) -> Iterator[None]:
    """Prefix the message of a :class:`SecateursError` raised inside with the name of the stage."""
    try:
        yield
    except SecateursError as error:
        if not str(error).startswith(step):
            error.args = (f"{step}: {error}",)
        raise


def preflight(config: Config, start: Start | None = None) -> Iterator[str]:
    """Build the model and the data, run one forward pass, and yield a line per check that passed.

    Args:
        config: The configuration.
        start: Task and network, for a caller who goes on with them.

    Raises:
        SecateursError: The storage, the device, the model or its data cannot be had, its outputs do not fit the data, or its
            score is at chance and nothing trains it before a search.
    """
    from evaluators.tasks.measure import measure

    require_extras(config.canonical())
    if config.storage is not None:
        from search.study.database import probe

        yield f"storage: {probe(config.storage)}"
    device_of(config.execution.device)
    stages = placed_stages(config)
    start = Start(config) if start is None else start
    task, model = start.task, start.network.model
    yield f"model: {type(model).__name__}, {format_count(sum(p.numel() for p in model.parameters()))} parameters"
    sizes = [f"{task.size(split)} {split}" for split in dict.fromkeys(("train", "search", task.calibration_split, "test"))]
    yield f"data: {', '.join(sizes)}"
    yield from task.check_data()
    _check_trainings(stages, task, model, config.execution.training_workers)
    outputs = _forward(task, model)
    yield f"forward pass: outputs of {outputs}"
    for split in dict.fromkeys(cast("tuple[Split, ...]", ("train", task.calibration_split, "test"))):
        _check_batch_of(split, task, model, outputs)
    if stages[0].stage.compresses:
        count_of = min(_SCORED, task.size("search"))
        found = measure(model, task, "search", limit=count_of)[task.score_name]
        yield f"score: {task.score_name} {found:.4f} as it is, on {count_of} samples of the search split"
    yield from _chance(stages, task, model)


def _check_trainings(stages: Iterable[PlacedStage], task: Task, model: nn.Module, workers: int) -> None:
    """Raise if a training's batches, recipe or name patterns don't fit the data and the network.

    Where weights are quantized, layers have other names than here, so that patterns are left to the training.
    """
    from evaluators.training.parameter_groups import require_named
    from evaluators.training.ranks import require_ranks
    from evaluators.training.recipe import require_recipe

    quantized = False
    for placed in stages:
        quantized = quantized or placed.stage.quantizes
        for below, training in placed.stage.trainings.items():
            if training.batch_size > task.size("train"):
                path = ".".join(filter(None, (placed.path, below, "batch_size")))
                raise SecateursError(
                    f"{path}: expected at most the {task.size('train')} training samples, got {training.batch_size}"
                )
            with named(".".join(filter(None, (placed.path, below)))):
                require_recipe(training, task)
                require_ranks(training, workers)
                if not quantized:
                    optimizer = training.optimizer
                    require_named(model, optimizer.no_decay or (), optimizer.rates or {}, training.train_only or ())


def _check_batch_of(split: Split, task: Task, model: nn.Module, outputs: str) -> None:
    """Run network, loss, scores and metrics on a batch of a split; of test nothing is measured.

    Args:
        split: The split.
        task: Data, loss and score.
        model: The network.
        outputs: Outputs on a batch of the search split, in words.

    Raises:
        SecateursError: Names, types or dimensions of entries differ from the search split's, or targets do not fit loss,
            scores or metrics.
    """
    import torch

    from evaluators.tasks.loader_batches import check_structure
    from spaces.execution.batch import describe

    batch, *others = _some(task, split)
    known = _some(task, "search")[0]
    check_structure(batch, known, f"the loader {split!r}")
    for other in others:
        check_structure(other, batch, f"the second batch of the {split} split", "as in its first one")
    inputs, targets = batch
    try:
        with torch.no_grad():
            _judge(task, model, inputs, targets)
    except SecateursError as error:
        error.args = (f"a batch of the {split} split: {error}",)
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"the model, its loss or its score fails on a batch of the {split} split, inputs of {describe(inputs)} and targets "
            f"of {describe(targets)}: {type(error).__name__}: {error}; expected what the search split has, on which they work: "
            f"inputs of {describe(known[0])}, targets of {describe(known[1])}, outputs of {outputs}"
        ) from error


def _some(task: Task, split: Split) -> list[Batch]:
    """Return the first two batches of a split, of two samples each; one of a split of no more.

    Raises:
        SecateursError: There is none, or one is no pair of inputs and targets.
    """
    found = list(islice(task.batches(split, 2, limit=4), 2))
    for batch in found:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            parts = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise SecateursError(
                f"a batch of the {split} split: expected a pair (inputs, targets), got a {type(batch).__name__}{parts}"
            )
    if not found:
        raise SecateursError(f"the task gave no batch of its {split} split; expected (inputs, targets) of at least one sample")
    return found


def _judge(task: Task, model: nn.Module, inputs: Nested, targets: Nested) -> tuple[Any, Tensor]:
    """Run network, loss, scores and new metrics on a batch, and return its outputs and its loss."""
    from torch import Tensor

    from evaluators.tasks.measure import scores_of
    from spaces.execution.forward import tensors_in

    outputs = task.forward(model, inputs)
    if not tensors_in(outputs):
        raise UnsupportedModelError(
            f"the model gives a {type(outputs).__name__} without a tensor in it; expected a tensor, or tuples, lists or "
            "mappings of tensors"
        )
    losses = task.forward(model, task.loss_inputs(inputs, targets)) if task.model_gives_losses else outputs
    loss: object = task.loss(losses, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise UnsupportedModelError(f"the loss of a batch: expected a tensor of one number, the mean; got {came}")
    scores_of(task, outputs, targets, task.meters())
    with warnings.catch_warnings():
        # Of a few samples, metrics warn of classes that are not among them.
        warnings.simplefilter("ignore")
        for meter in task.meters().values():
            meter.update(outputs, targets)
    return outputs, loss


def _forward(task: Task, model: nn.Module) -> str:
    """Run the network, loss and score on two samples, and return the outputs in words."""
    import torch

    from evaluators.tasks.loader_batches import check_structure
    from spaces.execution.batch import describe, not_finite

    (inputs, targets), *others = _some(task, "search")
    for other in others:
        check_structure(other, (inputs, targets), "the second batch of the search split", "as in its first one")
    try:
        with torch.no_grad():
            outputs, loss = _judge(task, model, inputs, targets)
    except SecateursError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"the model, its loss or its score fails on a batch of its data, inputs of {describe(inputs)}{_kind(inputs)}: "
            f"{type(error).__name__}: {error}. Targets are of {describe(targets)}{_type_of(targets)}. "
            "Check the model's arguments (input channels, classes, image size) against the data"
        ) from error
    if not bool(torch.isfinite(loss)):
        held = [f"{what}: {where}" for what, part in (("inputs", inputs), ("targets", targets)) if (where := not_finite(part))]
        raise UnsupportedModelError(
            f"the loss of the model on a batch of its data is {float(loss)}; expected a finite number"
            f"{'; ' if held else ''}{'; '.join(held)}"
        )
    if isinstance(outputs, torch.Tensor):
        require_informative_loss(task, outputs, targets)
    else:
        require_dependent_loss(task, model, (inputs, targets))
    return describe(outputs)


def _type_of(targets: Nested) -> str:
    """Return the type of targets that are one tensor."""
    from torch import Tensor

    return f" and type {str(targets.dtype).removeprefix('torch.')}" if isinstance(targets, Tensor) else ""


def _kind(inputs: Nested) -> str:
    """Return a remark on a tensor of inputs that are no floating-point numbers."""
    from torch import Tensor

    if not isinstance(inputs, Tensor) or inputs.is_floating_point():
        return ""
    name = str(inputs.dtype).removeprefix("torch.")
    return f" and type {name}, as the data set gives them (float32 is to be made by it, or by the network)"


def _chance(stages: Iterable[PlacedStage], task: Task, model: nn.Module) -> Iterator[str]:
    """Compare the score of the network as it is with chance.

    Raises:
        UnsupportedModelError: The score is at chance, and no training comes before the end of the first search.
    """
    trained = False
    for placed in stages:
        trained = trained or bool({"", "training"} & placed.stage.trainings.keys())
        if placed.stage.compresses:
            break
    found = score_at_chance(model, task)
    if found is None:
        return
    score, samples = found
    told = (
        f"{task.score_name} {score:.4f} of the network as it is, on {samples} samples of the search split, is no better than "
        "chance"
    )
    if trained or samples < ENOUGH:
        yield f"note that {told}: right for a network that is still to be trained, else check how its inputs are prepared"
        return
    raise UnsupportedModelError(
        f"{told}, and no training comes before the first search, which could tell nothing apart: check that weights are "
        "loaded, that inputs are prepared as in training and classes numbered alike, and that loss and score fit the task "
        "(loss= and score= of compress()), or put a train stage first"
    )
