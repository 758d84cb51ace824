"""Activation checkpointing changes no weight and no statistic of BatchNorm, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evaluators.training.features import FeatureSettings
from evaluators.training.loop import TrainingError, train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.recomputation import recomputing
from evaluators.training.settings import DistillationSettings, TrainingSettings
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from tests.evaluators.small_task import digits_task

SETTINGS = TrainingSettings(epochs=1, batch_size=64, optimizer=OptimizerSettings(lr=0.1), autocast="off", channels_last=False)
CALLS: list[bool] = []


class Offering(nn.Module):
    """A network that computes its features again as timm's do, with dropout and BatchNorm in them."""

    recomputes = False

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6, momentum=momentum), nn.Dropout(0.2), nn.ReLU()
        )
        self.classifier = nn.Linear(96, 10)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.recomputes = enable

    def forward(self, inputs: Tensor) -> Tensor:
        CALLS.append(self.recomputes and torch.is_grad_enabled())
        recomputed: Callable[..., Any] = checkpoint
        features = recomputed(self.features, inputs, use_reentrant=False) if CALLS[-1] else self.features(inputs)
        outputs: Tensor = self.classifier(features.flatten(1))
        return outputs


class Wrapping(nn.Module):
    """A network whose part offers it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Offering(momentum=None)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs)
        return outputs


def trained(factory: str, settings: TrainingSettings) -> dict[str, Tensor]:
    task = digits_task(f"{__name__}.{factory}", train_size=128)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = task.build()
    train(model, task, settings, seed=1, device=torch.device("cpu"))
    assert not any(getattr(module, "recomputes", False) for module in model.modules())
    return dict(model.state_dict())


@pytest.mark.parametrize("shards", [None, 4])
@pytest.mark.parametrize("factory", ["Offering", "Wrapping"])
def test_what_is_computed_again_changes_nothing(factory: str, shards: int | None) -> None:
    settings = replace(SETTINGS, shards=shards)
    plain = trained(factory, settings)
    CALLS.clear()
    again = trained(factory, replace(settings, activation_checkpointing=True))
    assert any(CALLS)
    assert all(torch.equal(again[name], tensor) for name, tensor in plain.items())


def test_a_network_that_offers_none_is_named() -> None:
    task = digits_task()
    with pytest.raises(TrainingError, match="activation_checkpointing: Dropped offers none: expected gradient_checkpointing"):
        train(task.build(), task, replace(SETTINGS, activation_checkpointing=True), seed=0, device=torch.device("cpu"))


def test_what_watches_layers_would_see_them_twice() -> None:
    task = digits_task(f"{__name__}.Offering")
    settings, model, cpu = replace(SETTINGS, activation_checkpointing=True), task.build(), torch.device("cpu")
    with pytest.raises(TrainingError, match="activation_checkpointing: importance by taylor watches layers"):
        train(model, task, settings, seed=0, device=cpu, sparsifier=GradientCut(GradientCutSettings(importance="taylor")))
    features = DistillationSettings(features=FeatureSettings())
    for name in ("compile", "activation_checkpointing"):
        given = replace(SETTINGS, distillation=features, **{name: True})
        with pytest.raises(TrainingError, match=f"^{name}: distillation.features watches layers"):
            train(model, task, given, seed=0, device=cpu, teacher=task.build())


@pytest.mark.slow
def test_networks_of_transformers_and_timm_compute_the_same_and_keep_no_hook() -> None:
    timm, transformers = (pytest.importorskip(name) for name in ("timm", "transformers"))
    config = transformers.BertConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=50
    )
    tokens, images = torch.randint(0, 50, (2, 7)), torch.randn(2, 3, 64, 64)
    for model, inputs in (
        (transformers.BertForSequenceClassification(config), tokens),
        (timm.create_model("resnet18"), images),
    ):
        model.train()
        state, found = {name: tensor.clone() for name, tensor in model.state_dict().items()}, []
        for wanted in (False, True):
            model.load_state_dict(state)
            with torch.random.fork_rng(), recomputing(model, wanted):
                torch.manual_seed(0)
                outputs = model(inputs)
                getattr(outputs, "logits", outputs).square().mean().backward()
            found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
            model.zero_grad()
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(TrainingError, match="does not support"), recomputing(_refusing(transformers), True):
        pass


def _refusing(transformers: Any) -> Any:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    return transformers.ResNetForImageClassification(config)
