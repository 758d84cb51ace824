"""Checks of a training's recipe against its network, its data and what else takes part."""

from __future__ import annotations

from torch import Tensor, nn

from evaluators.task import Task
from evaluators.training.errors import TrainingError
from evaluators.training.recomputation import require_recomputing
from evaluators.training.settings import TrainingSettings
from spaces.execution.batch import describe
from spaces.importance.criterion import CRITERIA
from spaces.registry import resolve
from spaces.sparsifiers.base import Sparsifier


def require_trainable(
    model: nn.Module,
    task: Task,
    settings: TrainingSettings,
    teacher: nn.Module | None,
    sparsifier: Sparsifier | None,
) -> None:
    """Raise if the network, its data, the teacher and the sparsifier can't be trained together as ``settings`` say.

    Raises:
        TrainingError: They can't; the message names the option.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"{type(model).__name__} has no parameter that requires a gradient: nothing can be trained")
    if task.size("train") < settings.batch_size:
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
    require_recipe(settings, task)
    if settings.activation_checkpointing:
        require_recomputing(model)
    for name in ("compile", "activation_checkpointing"):
        if getattr(settings, name) and settings.distillation is not None and settings.distillation.features is not None:
            raise TrainingError(
                f"{name}: distillation.features watches layers in every step; set {name}: false, or remove features"
            )
    if sparsifier is not None:
        require_sparsifier(settings, sparsifier)


def require_sparsifier(settings: TrainingSettings, sparsifier: Sparsifier) -> None:
    """Raise if a sparsifier can't take part in the training that ``settings`` describe.

    Raises:
        TrainingError: Weights are averaged and channels go, not all of the network is trained, or classes are mixed that are
            compared.
    """
    name = type(sparsifier).__name__
    if settings.ema is not None and sparsifier.removes:
        raise TrainingError(
            f"ema: {name} takes channels to zero, and an average over the steps would bring them back; remove ema here, and "
            "average in the training behind it"
        )
    if settings.train_only is not None:
        raise TrainingError(f"train_only: {name} acts on the weights of all layers, which must all be trained; remove it here")
    if settings.adapters is not None:
        raise TrainingError(
            f"adapters: {name} acts on the weights of all layers, which adapters keep as they are; remove adapters here, and "
            "train with them behind it"
        )
    criterion = None if sparsifier.importance is None else resolve(CRITERIA[sparsifier.importance])
    if settings.activation_checkpointing and criterion is not None and (criterion.gradients or criterion.labels):
        raise TrainingError(
            f"activation_checkpointing: importance by {sparsifier.importance} watches layers, and would see them twice "
            "in a step; set it to false here, or take another importance"
        )
    mixed = [name for name in ("mixup", "cutmix") if getattr(settings, name) is not None]
    if mixed and criterion is not None and criterion.labels:
        raise TrainingError(
            f"{mixed[0]}: importance by {sparsifier.importance} compares images of one class; remove it here, or take another "
            "importance"
        )


def require_recipe(settings: TrainingSettings, task: Task) -> None:
    """Raise if the samples of a task can't be changed, mixed and judged as ``settings`` say.

    Raises:
        TrainingError: They can't; the message begins with the option's name.
    """
    if settings.loss is not None and task.model_gives_losses:
        raise TrainingError("loss: this network gives its losses itself in training; remove it here")
    changed = [name for name in ("mixup", "cutmix", "rand_augment", "erasing") if getattr(settings, name) is not None]
    if not changed:
        return
    inputs, targets = next(iter(task.batches("train", 2, limit=2)))
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point():
        raise TrainingError(
            f"{changed[0]}: expected images, floating-point of shape (N, C, H, W), got inputs of {describe(inputs)}"
        )
    labelled = [name for name in changed if name != "erasing"]
    if labelled and task.labels(targets) is None:
        raise TrainingError(
            f"{labelled[0]}: expected a task with one class for every image, got targets of {describe(targets)}; remove it here"
        )
    if settings.rand_augment is not None:
        if task.pixel_scale is None:
            raise TrainingError(
                "rand_augment: works on pixels, and how these images were normalized is not known; augment in the data set, or "
                "set pixel_scale of the task"
            )
        if inputs.shape[1] not in (1, 3):
            raise TrainingError(f"rand_augment: expected images of 1 or 3 channels, got {inputs.shape[1]}")
