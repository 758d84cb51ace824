"""Compiled steps train the same network up to rounding, on the same state; torch.compile takes seconds to be imported alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.compilation import CompiledCalls
from evaluators.training.loop import TrainingError, train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import DistillationSettings, TrainingSettings
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings
from tests.evaluators.small_task import digits_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]
CPU = torch.device("cpu")
SETTINGS = TrainingSettings(epochs=2, batch_size=64, optimizer=OptimizerSettings(lr=0.05), autocast="off", compile=True)


def trained(
    settings: TrainingSettings, sparsifier: Sparsifier | None = None, checkpoint: Path | None = None, until: int | None = None
) -> dict[str, Tensor]:
    task = digits_task("spaces.networks.digits_cnn", train_size=256, width=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, teacher = task.build(), task.build()
    train(
        model,
        task,
        settings,
        seed=2,
        device=CPU,
        sparsifier=sparsifier,
        teacher=None if settings.distillation is None else teacher,
        checkpoint=None if checkpoint is None else FileCheckpoint(checkpoint),
        until=until,
    )
    assert model._compiled_call_impl is None
    return dict(model.state_dict())


@pytest.mark.parametrize(
    ("recipe", "sparsifier"),
    [
        ({"shards": 2, "distillation": DistillationSettings()}, lambda: None),
        ({}, lambda: ScalingFactor(ScalingFactorSettings(strength=1e-3))),
        ({}, lambda: GradientCut(GradientCutSettings(ratio=0.3, importance="second_order"))),
    ],
    ids=["shards and distillation", "scaling factors", "hooks"],
)
def test_compiled_steps_train_the_same_network(recipe: dict[str, Any], sparsifier: Callable[[], Sparsifier | None]) -> None:
    settings = replace(SETTINGS, **recipe)
    found, expected = trained(settings, sparsifier()), trained(replace(settings, compile=False), sparsifier())
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    if sparsifier() is None:
        assert any(not torch.equal(found[name], tensor) for name, tensor in expected.items()), "nothing was compiled"


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = trained(SETTINGS)
    trained(SETTINGS, checkpoint=tmp_path / "state", until=1)
    again = trained(SETTINGS, checkpoint=tmp_path / "state")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_a_network_with_new_hooks_runs_as_it_is() -> None:
    model = torch.nn.Linear(2, 2)
    calls = CompiledCalls(model, CPU)
    with calls.active():
        assert model._compiled_call_impl is not None
    handle = model.register_forward_hook(lambda *_: None)
    with calls.active():
        assert model._compiled_call_impl is None
    handle.remove()


def test_a_machine_without_a_compiler_is_an_error_that_says_so() -> None:
    import torch._inductor.config

    with (
        torch._inductor.config.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}),
        pytest.raises(
            TrainingError, match=r"^compile: torch.compile can't compile .* here \(.*; install .*set compile: false$"
        ),
    ):
        trained(SETTINGS)
