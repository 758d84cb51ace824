"""Checks of a loader task on one real batch of every split: outputs, targets, loss and score fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evaluators.tasks.loader_samples import LoaderError
from spaces.errors import error_line
from spaces.execution.batch import Nested, describe, type_name
from spaces.execution.forward import tensors_in

CHECKED = 16
"""Samples of a split that are looked at."""
_PASS = "pass loss= (outputs, targets to the mean loss) and score= (outputs, targets to one value per sample)"  # noqa: S105 (no password)


def check_outputs(outputs: Any, samples: int, structured: bool) -> None:
    """Check that the network gives a tensor with a row per sample, or outputs that a loss and a score were passed for.

    Args:
        outputs: What the network returned.
        samples: Number of samples that it was given.
        structured: Whether a loss was passed, which may take outputs of any structure.

    Raises:
        LoaderError: The network gives several outputs and there is no loss or score for them, no tensor, or no row per sample.
    """
    if not isinstance(outputs, Tensor):
        if structured and tensors_in(outputs):
            return
        raise LoaderError(
            f"the network gives several outputs (a {type(outputs).__name__}), and cross-entropy and top-1 accuracy take one "
            f"tensor: {_PASS}, both of which get what the network returns"
        )
    if outputs.dim() == 0 or len(outputs) != samples:
        raise LoaderError(
            f"the network gives outputs of shape {tuple(outputs.shape)} for {samples} samples; expected one row per sample"
        )


def check_classes(outputs: Tensor, targets: Nested, split: str) -> bool:
    """Check that cross-entropy and top-1 accuracy can be right; return True for targets that are probabilities of classes.

    Args:
        outputs: The network's outputs for some samples, of shape ``(N, classes, ...)``.
        targets: Targets of samples of ``split``; their number may be another.
        split: Name of the split.

    Raises:
        LoaderError: No loss and score were passed, and cross-entropy of these outputs and targets would be none.
    """
    if not isinstance(targets, Tensor):
        raise LoaderError(
            f"the loader {split!r}: targets of {describe(targets)}, and cross-entropy and top-1 accuracy take one tensor; "
            f"{_PASS}"
        )
    kind = type_name(targets)
    place = f"the loader {split!r}: outputs of shape {_shape(outputs)} and targets of shape {_shape(targets)}, {kind}"
    if outputs.dim() < 2 or outputs.shape[1] == 1:
        raise LoaderError(
            f"{place}: a single logit (one logit per sample) has no cross-entropy over classes; {_PASS}, such as "
            "loss=lambda o, t: F.binary_cross_entropy_with_logits(o.flatten(), t.flatten().float()) and "
            "score=lambda o, t: ((o.flatten() > 0) == t.flatten().bool()).float()"
        )
    classes = outputs.shape[1]
    if targets.shape[1:] == outputs.shape[1:]:
        shares = targets.double()
        whole = torch.isclose(shares.sum(1), torch.ones((), dtype=torch.float64), atol=1e-3)
        if bool((shares >= 0).all()) and bool(whole.all()):
            return True
        raise LoaderError(f"{place}: they are no probabilities of {classes} classes (rows that sum to 1); {_PASS}")
    integers = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if targets.shape[1:] != outputs.shape[2:] or not integers:
        raise LoaderError(
            f"{place}: expected classes as integers, one fewer dimension than the outputs, or a probability of every class; "
            f"for anything else, {_PASS}"
        )
    check_numbers(targets, classes, place)
    return False


def check_numbers(targets: Tensor, classes: int, place: str) -> None:
    """Check that targets are classes from 0 to ``classes - 1``.

    Raises:
        LoaderError: They are not.
    """
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise LoaderError(
            f"{place}: classes from {low} to {high}, and the network gives {classes} outputs; expected 0 to {classes - 1}: "
            f"change its number of outputs, or {_PASS}"
        )


def check_loss(loss: Callable[[Any, Nested], Any], outputs: Any, targets: Nested, samples: int) -> bool:
    """Check that a loss that was passed in gives a value per sample, or a scalar; return True for the former.

    Raises:
        LoaderError: The loss fails, or gives something else.
    """
    found = _called("loss", loss, outputs, targets)
    if not isinstance(found, Tensor) or not (found.numel() == 1 or tuple(found.shape) == (samples,)):
        raise LoaderError(
            f"loss= gave {_described(found)} for {samples} samples; expected one value per sample, shape ({samples},), or the "
            "mean loss of the batch, a tensor of one number"
        )
    return tuple(found.shape) == (samples,)


def check_score(score: Callable[[Any, Nested], Any], outputs: Any, targets: Nested, samples: int) -> None:
    """Check that a score that was passed in gives one value per sample.

    Raises:
        LoaderError: The score fails, or gives something else.
    """
    found = _called("score", score, outputs, targets)
    if not isinstance(found, Tensor) or found.dim() == 0 or len(found) != samples or found.numel() != samples:
        raise LoaderError(
            f"score= gave {_described(found)} for {samples} samples; expected one value per sample, shape ({samples},)"
        )


def _called(name: str, function: Callable[[Any, Nested], Any], outputs: Any, targets: Nested) -> Any:
    try:
        with torch.no_grad():
            return function(outputs, targets)
    except Exception as error:
        raise LoaderError(
            f"{name}= failed on outputs ({_described(outputs)}) and targets ({_described(targets)}): {error_line(error)}"
        ) from error


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(['N', *map(str, tensor.shape[1:])])}{',' if tensor.dim() == 1 else ''})"
