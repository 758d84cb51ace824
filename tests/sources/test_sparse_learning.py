"""CN111105035A, its printed steps: the penalty on the scaling factors, the loss with it, and the slope before any clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluators.training.loop import TrainingSettings, train
from evaluators.training.optimizers import OptimizerSettings
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings, penalty_value
from tests.evaluators.small_task import digits_task

STRENGTH, EPSILON = 0.02, 1e-2


def loss_and_gradients(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    """Return ``f_old + lambda sum_l sum_i sqrt(|gamma_li| + eps)`` and its gradients, by autograd alone."""
    gammas = [module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    penalty = torch.stack([(gamma.abs() + EPSILON).sqrt().sum() for gamma in gammas]).sum()
    loss = nn.functional.cross_entropy(model(inputs), targets) + STRENGTH * penalty
    return float(loss.detach()), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_step_1_trains_on_the_loss_with_the_penalty_which_is_clipped_with_it(clip: float | None) -> None:
    task = digits_task("spaces.networks.digits_cnn", width=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.build()
    by_hand = task.build()
    by_hand.load_state_dict(model.state_dict())
    size = task.size("train")
    settings = TrainingSettings(
        epochs=1, batch_size=size, optimizer=OptimizerSettings("sgd", lr=0.1, momentum=0.0, weight_decay=0.0),
        schedule="constant", warmup=0.0, autocast="off", channels_last=False, clip_norm=clip,
    )  # fmt: skip
    seen = []

    class Watch(ScalingFactor):
        def before_forward(self, inputs, targets):
            seen.append((inputs.clone(), targets.clone()))

    sparsifier = Watch(ScalingFactorSettings(strength=STRENGTH, epsilon=EPSILON))
    history = train(model, task, settings, seed=0, device=torch.device("cpu"), sparsifier=sparsifier)

    ((inputs, targets),) = seen
    loss, gradients = loss_and_gradients(by_hand.train(), inputs, targets)
    assert history.epochs[0].loss == pytest.approx(loss, rel=1e-5)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    factor = 1.0 if clip is None else min(1.0, clip / (float(norm) + 1e-6))
    for (name, after), before, gradient in zip(model.named_parameters(), by_hand.parameters(), gradients, strict=True):
        assert torch.allclose(after, before - 0.1 * factor * gradient, rtol=1e-5, atol=1e-7), name


def test_l1_is_the_other_penalty() -> None:
    gamma = torch.tensor([0.5, -2.0, 0.0])
    assert float(penalty_value(gamma, "l1", EPSILON)) == 2.5
