"""What every registered evaluator and every registered data set promises."""

import pytest
import torch

from evaluators import DATASETS, EVALUATORS
from evaluators.base import Evaluator, Metric
from evaluators.cost import CostSettings
from evaluators.latency.backends import BACKENDS
from evaluators.latency.backends.base import find_backend
from evaluators.latency.latency import LatencySettings
from evaluators.metrics import METRICS
from evaluators.task import MissingDataError
from evaluators.tasks.classification import Classification
from evaluators.tasks.data import DataSet, DataSettings
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings
from evaluators.testing import check_backend, check_evaluator, check_metric, check_settings
from spaces.registry import lookup


@pytest.fixture(scope="module")
def task():
    return Classification(
        ModelSettings("spaces.networks.digits_cnn", {"width": 4}), Digits(DigitsSettings(search_size=64, train_size=128))
    )


@pytest.mark.parametrize("name", list(EVALUATORS))
def test_evaluator(name, task):
    # The default backend, which exports ONNX four times here, is checked below.
    settings = LatencySettings(backend="eager", repetitions=5) if name == "latency" else None
    check_evaluator(lookup(EVALUATORS, name, "evaluator"), task, settings)


def test_only_timings_differ_from_one_evaluation_to_the_next():
    assert [name for name in EVALUATORS if not lookup(EVALUATORS, name, "evaluator").repeatable] == ["latency"]


@pytest.mark.parametrize("name", list(METRICS))
def test_metric(name):
    check_metric(name, METRICS[name])


def test_the_kit_finds_a_cost_that_is_maximized():
    with pytest.raises(AssertionError, match="a cost is minimized"):
        check_metric("energy", Metric("J", "maximize", is_cost=True))


class Guess(Evaluator):
    """Breaks one promise after the other."""

    Settings = CostSettings

    def __init__(self, settings, answers=lambda: {"guess": 0.5}):
        self.answers = answers

    @property
    def metrics(self):
        return {"guess": Metric("fraction", "maximize")}

    def evaluate(self, model, context):
        return self.answers()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda: {}, "metrics_for promises"),
        (lambda: {"guess": 1}, "guess: expected a float, got int"),
        (lambda: {"guess": float("nan")}, "guess: expected a finite value"),
        (lambda: {"guess": float(torch.rand(()))}, "two evaluations"),
        (lambda: {"guess": 0.0 * float(torch.rand(()))}, "global generator"),
    ],
)
def test_the_kit_finds_a_broken_evaluator(answers, message, task):
    class Broken(Guess):
        def __init__(self, settings):
            super().__init__(settings, answers)

    check_evaluator(Guess, task)
    with pytest.raises(AssertionError, match=message):
        check_evaluator(Broken, task)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "compile")) for name in BACKENDS])
def test_backend(name):
    check_backend(find_backend(name))


def test_the_kit_finds_a_broken_backend():
    class Instant(type(find_backend("eager"))):
        def build(self, content, inputs, device, threads):
            return lambda: 0.0

    with pytest.raises(AssertionError, match="tiny network took 0.0 ms"):
        check_backend(Instant())


def test_costs_come_before_accuracy():
    ranks = {name: lookup(EVALUATORS, name, "evaluator").rank for name in EVALUATORS}
    assert ranks["cost"] < ranks["accuracy"]


@pytest.mark.parametrize("name", list(DATASETS))
def test_data_set_settings_are_a_frozen_dataclass_that_forbids_unknown_keys(name):
    kind = lookup(DATASETS, name, "data set")
    assert issubclass(kind, DataSet)
    assert issubclass(kind.Settings, DataSettings)
    check_settings(kind.Settings)


@pytest.mark.parametrize("name", [name for name in DATASETS if not name.startswith(("digits", "shape_", "letter_order"))])
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
    assert ("download: true" in text) == (name not in ("image_folder", "tar_shards", "text_folder"))
    assert not folder.exists()
