"""The table of Omega that a search reads: made once, kept, and made again only for other settings."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from evaluators.cost import Cost, CostSettings
from evaluators.sensitivity.estimates import SensitivitySettings
from evaluators.sensitivity.loss_increase import LossIncrease
from evaluators.tasks.classification import Classification
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings
from evaluators.training.moments import TrainingMoments
from search.stages.search.sensitivity_tables import SensitivityTables, rank_correlation
from spaces.bit_width import BitWidth, BitWidthSettings

CPU = torch.device("cpu")
SETTINGS = SensitivitySettings(sensitivity="hutchinson", samples=16, batch_size=4, tolerance=1.0, most_rounds=2)


@pytest.fixture(scope="module")
def task():
    return Classification(
        ModelSettings("spaces.networks.digits_cnn", {"width": 4}), Digits(DigitsSettings(search_size=64, train_size=64))
    )


@pytest.fixture(scope="module")
def setting(task):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.reference_model().eval()
    settings = BitWidthSettings(weight_bits=(2, 8), activation_bits=(8,), additions=False)
    return BitWidth(model, task.example_inputs(), settings), model


@pytest.fixture
def tables(task, setting, tmp_path):
    def make(settings=SETTINGS, seed=0, folder=tmp_path, omega=True, moments=None):
        told = []
        evaluators = [Cost(CostSettings()), *([LossIncrease(settings)] if omega else [])]
        found = SensitivityTables(*setting, task, evaluators, CPU, seed, folder, told.append, moments=moments)
        return found, told

    return make


def test_it_is_measured_once_and_read_back_exactly(tables, tmp_path):
    first, told = tables()
    table = first.table()
    assert told == ["measuring sensitivity (hutchinson)"]
    again, told = tables()
    assert again.table() == table
    assert told == []
    (tmp_path / "sensitivity.json").unlink()
    anew, _ = tables()
    assert anew.table() == table


@pytest.mark.parametrize("change", ["seed", "settings"])
def test_another_seed_or_other_settings_measure_it_again(tables, change):
    first, _ = tables()
    table = first.table()
    other = {"seed": 1} if change == "seed" else {"settings": dataclasses.replace(SETTINGS, samples=12)}
    second, told = tables(**other)
    assert second.table() != table
    assert told == ["measuring sensitivity (hutchinson)"]


def test_a_configuration_that_is_only_checked_measures_nothing(tables, setting):
    checked, told = tables()
    table = checked.zeros()
    assert checked.wanted
    assert set(table) == set(setting[0].domains)
    assert {value for entries in table.values() for value in entries.values()} == {0.0}
    assert {name: set(entries) for name, entries in table.items()} == {n: set(v) for n, v in checked.options.items()}
    assert told == []


def test_without_a_folder_nothing_is_kept(tables, tmp_path):
    found, told = tables(folder=None)
    found.table()
    assert told == ["measuring sensitivity (hutchinson)"]
    assert not list(tmp_path.iterdir())


def test_nothing_is_wanted_without_somebody_who_reads_it(tables):
    found, _ = tables(omega=False)
    assert not found.wanted
    assert found.comparison() is None


def test_the_comparison_is_kept_with_the_table(tables, tmp_path):
    first, _ = tables()
    compared = first.comparison()
    assert compared["kind"] == "hutchinson"
    assert {row["decision"] for row in compared["rows"]} == {
        name for name, options in first.options.items() if len(options) > 1
    }
    assert all(row["bits"] == 2 and row["weight"] for row in compared["rows"])
    second, told = tables()
    assert second.comparison() == compared
    assert told == []
    assert json.loads((tmp_path / "sensitivity.json").read_text())["comparison"] == compared


def test_it_can_be_switched_off(tables):
    found, _ = tables(dataclasses.replace(SETTINGS, compare=False))
    assert found.comparison() is None


def test_rank_correlation_needs_three_values_that_differ():
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 25.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 2.5]) == pytest.approx(-0.5)
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_moments_of_the_training_are_the_default_and_what_is_read_instead_is_said(tables, setting):
    _, model = setting
    default = SensitivitySettings(samples=16, batch_size=4)
    assert (default.sensitivity, default.moments) == ("adam", "training")
    values = {name: torch.full_like(parameter, 2.0) for name, parameter in model.named_parameters()}
    trained, told = tables(default, folder=None, moments=TrainingMoments("adamw", 4, 9, values))
    assert trained.source()["moments"] == "training"
    assert "the training just done (adamw, batches of 4; CN112183742B)" in told[-1]
    doubled = {name: 2.0 * value for name, value in values.items()}
    twice, _ = tables(default, folder=None, moments=TrainingMoments("adamw", 4, 9, doubled))
    weight = next(name for name, options in trained.options.items() if name.endswith(".weight") and len(options) > 1)
    assert twice.table()[weight][2] == pytest.approx(2 * trained.table()[weight][2])
    assert trained.table()[weight][2] > trained.table()[weight][8] > 0.0

    for moments, reason in ((TrainingMoments("sgd", 4), "used sgd"), (None, "no training in this run")):
        measured, told = tables(default, folder=None, moments=moments)
        assert measured.source()["moments"] == "measured"
        assert reason in measured.source()["text"]
        assert reason in told[-1]
    asked, told = tables(dataclasses.replace(default, moments="measured"), folder=None, moments=TrainingMoments("sgd", 4))
    assert asked.source()["text"] == "Adam's second moment, measured on 16 samples after training (ours)"
    assert asked.table() == measured.table()
