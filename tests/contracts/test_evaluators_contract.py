"""What every registered evaluator and every registered data set promises."""

import dataclasses
import math

import pytest
import torch

from evaluators import DATASETS, EVALUATORS
from evaluators.base import EvaluationContext, Evaluator
from evaluators.task import MissingDataError
from evaluators.tasks.classification import Classification
from evaluators.tasks.data import DataSet, DataSettings
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings
from spaces.registry import lookup


@pytest.fixture(scope="module")
def task():
    return Classification(
        ModelSettings("spaces.networks.digits_cnn", {"width": 4}), Digits(DigitsSettings(search_size=64, train_size=128))
    )


@pytest.fixture(params=list(EVALUATORS))
def kind(request):
    return lookup(EVALUATORS, request.param, "evaluator")


def evaluate(kind, task, fidelity=1.0):
    model = task.reference_model()
    generator = torch.Generator().manual_seed(0)
    context = EvaluationContext(task, generator, torch.device("cpu"), fidelity, task.reference_model(), {})
    return kind(kind.Settings()).evaluate(model, context)


def require_frozen(settings):
    assert dataclasses.is_dataclass(settings)
    assert settings.__dataclass_params__.frozen
    assert settings.__pydantic_config__ == {"extra": "forbid"}


def test_evaluator_settings_are_a_frozen_dataclass_that_forbids_unknown_keys(kind):
    assert issubclass(kind, Evaluator)
    require_frozen(kind.Settings)


@pytest.mark.parametrize("fidelity", [1.0, 0.1])
def test_evaluator_returns_the_metrics_it_names(kind, task, fidelity):
    found = evaluate(kind, task, fidelity)
    named = kind(kind.Settings()).metrics_for(task)
    assert set(found) == set(named)
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
    assert all(metric.unit and metric.direction in ("maximize", "minimize") for metric in named.values())
    assert set(kind(kind.Settings()).metrics) <= set(found)


def test_evaluator_gives_the_same_twice_and_leaves_the_global_generator_alone(kind, task):
    state = torch.get_rng_state()
    first, second = evaluate(kind, task), evaluate(kind, task)
    assert torch.equal(state, torch.get_rng_state())
    if not any(metric.unit in ("ms", "s") for metric in kind(kind.Settings()).metrics.values()):
        assert first == second


def test_costs_come_before_accuracy():
    ranks = {name: lookup(EVALUATORS, name, "evaluator").rank for name in EVALUATORS}
    assert ranks["cost"] < ranks["accuracy"]


@pytest.mark.parametrize("name", list(DATASETS))
def test_data_set_settings_are_a_frozen_dataclass_that_forbids_unknown_keys(name):
    kind = lookup(DATASETS, name, "data set")
    assert issubclass(kind, DataSet)
    assert issubclass(kind.Settings, DataSettings)
    require_frozen(kind.Settings)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_missing_data_says_what_where_and_how(name, tmp_path):
    kind = lookup(DATASETS, name, "data set")
    folder = tmp_path / "nowhere"
    data = kind(kind.Settings(root=str(folder)))
    with pytest.raises(MissingDataError) as caught:
        data.size("train")
    text = str(caught.value)
    assert name in text
    assert str(folder) in text
    assert "data.root" in text
    assert "SECATEURS_DATA" in text
    assert ("download: true" in text) == (name != "image_folder")
    assert not folder.exists()
