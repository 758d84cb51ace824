"""Checks of a task's loss and score on real samples: a loss that can guide a search, a score above chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spaces.errors import UnsupportedModelError
from spaces.execution.batch import BatchError, Nested, count_samples, describe, join, reorder, select
from spaces.execution.forward import tensors_in

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.task import Batch, Task

FIRST, ENOUGH, MOST = 100, 200, 400
"""Samples on which a score is compared with chance at first; fewest that may end a run; most that are taken where in doubt."""
_CLEAR, _CHANCE = 4.0, 2.0
"""Standard deviations above chance: enough on the first samples; less than which is chance on all of them (ours)."""
_SHUFFLES = 100
_REMEDY = "pass loss= and score= to compress(), or change them in the task's class"
_BATCH = 64
"""Samples of a forward pass."""
_WITHOUT_GRADIENT = f"the loss has no gradient with respect to the network's outputs; {_REMEDY}"


def require_informative_loss(task: Task, outputs: Tensor, targets: Nested) -> None:
    """Raise if the loss has no gradient with respect to the outputs, on a batch and on variations of it.

    Variations are the outputs of the next sample, their mean, a thousandth of them, and random numbers: an answer given with
    full certainty, where gradients vanish, is no sign of such a loss.

    Args:
        task: The task.
        outputs: The network's outputs on a batch, of shape ``(N, ...)``.
        targets: The batch's targets.

    Raises:
        UnsupportedModelError: The loss is the same for all outputs, or changes with them without a gradient.
    """
    import torch

    outputs = outputs.detach()
    if outputs.is_floating_point():
        varied = [outputs, outputs.roll(1, 0), outputs.mean(0, keepdim=True).expand_as(outputs), outputs * 1e-3]
        varied += [torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0), dtype=outputs.dtype)]
    else:
        varied = [outputs, outputs.roll(1, 0)]
    seen = set()
    for number, given in enumerate(varied):
        leaf = given.clone()
        try:
            with torch.enable_grad():
                loss = task.loss(leaf.requires_grad_() if leaf.is_floating_point() else leaf, targets)
                slope = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
        except Exception:
            # Outputs of another kind than the network's may be outside of what a loss takes.
            if number == 0:
                raise
            continue
        if slope is not None and bool(slope.any()):
            return
        seen.add(float(loss.detach()))
    if len(seen) == 1:
        raise UnsupportedModelError(
            f"the loss is {seen.pop():.6g} whatever the network answers (outputs of shape {tuple(outputs.shape)}, targets of "
            f"{describe(targets)}), so that nothing can be judged by it; {_REMEDY}"
        )
    raise UnsupportedModelError(_WITHOUT_GRADIENT)


def require_dependent_loss(task: Task, model: nn.Module, batch: Batch) -> None:
    """Raise if the loss of outputs that are no single tensor has no gradient by the network's parameters.

    Raises:
        UnsupportedModelError: It has none, and the network has parameters that require one.
    """
    import torch

    inputs, targets = batch
    with torch.enable_grad():
        learnt = any(parameter.requires_grad for parameter in model.parameters())
        if learnt and not task.loss(task.forward(model, task.loss_inputs(inputs, targets)), targets).requires_grad:
            raise UnsupportedModelError(_WITHOUT_GRADIENT)


def score_at_chance(model: nn.Module, task: Task) -> tuple[float, int] | None:
    """Return (score, samples) if the score on the search split is no better than that of other samples' answers, else None.

    The score is compared with those of the same outputs and shuffled targets (a permutation test): chance is a mean of less
    than 2 standard deviations above theirs. Targets that can't be exchanged between samples, and scores that are no
    mean over samples, tell nothing.

    Args:
        model: The network, in evaluation mode.
        task: The task; its primary score is compared.
    """
    if task.score_name in task.meters() or task.model_gives_losses:
        return None
    size = task.size("search")
    try:
        answers, targets = _answers(model, task, min(FIRST, size))
        above = _above_chance(task, answers, targets)
        if above < _CLEAR and size > FIRST:
            affordable = 2**24 // max(sum(one.numel() for one in tensors_in(answers[0])) // _BATCH, 1)
            if affordable > FIRST:
                answers, targets = _answers(model, task, min(MOST, size, affordable))
                above = _above_chance(task, answers, targets)
    except BatchError:
        return None
    if above >= _CHANCE:
        return None
    return _mean_score(task, answers, targets), count_samples(targets)


def _answers(model: nn.Module, task: Task, count: int) -> tuple[list[Any], Nested]:
    """Return the outputs of every batch, and the targets of all of them as one."""
    import torch

    outputs, expected = [], []
    with torch.no_grad():
        for inputs, targets in task.batches("search", _BATCH, limit=count):
            outputs.append(task.forward(model, inputs))
            expected.append(targets)
    return outputs, join(expected)


def _mean_score(task: Task, answers: list[Any], targets: Nested) -> float:
    """Return the mean score of answers in batches of :data:`_BATCH`."""
    total, first, samples = 0.0, 0, count_samples(targets)
    for outputs in answers:
        last = min(first + _BATCH, samples)
        total += float(task.score(outputs, select(targets, first, last))[task.score_name].double().sum())
        first = last
    return total / samples


def _above_chance(task: Task, answers: list[Any], targets: Nested) -> float:
    """Return how many standard deviations the mean score is better than those of shuffled targets."""
    import torch

    generator = torch.Generator().manual_seed(0)
    samples = count_samples(targets)

    def mean(order: Tensor) -> float:
        return _mean_score(task, answers, reorder(targets, order))

    found = _mean_score(task, answers, targets)
    shuffled = torch.tensor([mean(torch.randperm(samples, generator=generator)) for _ in range(_SHUFFLES)])
    spread = float(shuffled.std())
    difference = task.score_sign * (found - float(shuffled.mean()))
    if spread == 0.0:
        return 0.0 if difference <= 0.0 else float("inf")
    return difference / spread
