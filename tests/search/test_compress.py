"""The engine from Python: a network and loaders in, a smaller network out."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from evaluators.tasks.loader_samples import LoaderError
from evaluators.tasks.loader_task import LoaderTask
from search import recipes
from search.compress import compress
from search.config.document import ConfigError
from search.export import load
from spaces.errors import SecateursError

SEARCH = {
    "space": {"name": "channel_mask"},
    "algorithm": {"name": "genetic", "population": 4, "generations": 2},
    "evaluate": [{"accuracy": {"split": "search"}}, "cost"],
    "objectives": {"top1": "maximize"},
    "target": {"macs": "<= 50%"},
}
STAGES = [{"search": SEARCH}, {"retrain": {"epochs": 1, "batch_size": 16}}]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 3),
    )


class Noisy(torch.utils.data.Dataset[Any]):
    """Samples that are another one at every look, but for the generator."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.randn(1, 8, 8) + index % 3, index % 3


def loaders() -> dict[str, DataLoader[Any]]:
    images, labels = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3
    fixed = DataLoader(TensorDataset(images, labels), batch_size=5)
    return {"train": DataLoader(Noisy(), batch_size=3, shuffle=True), "search": fixed, "test": fixed}


@pytest.mark.usefixtures("no_pictures")
def test_a_network_and_loaders_become_a_smaller_network_that_is_loaded_again(tmp_path: Path) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = compress(model, **loaders(), target={}, folder=tmp_path / "mine", stages=STAGES, quiet=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert found.report["result"]["macs"] <= 0.5 * found.report["reference"]["macs"]
    inputs = torch.randn(2, 1, 8, 8)
    again = load(tmp_path / "mine", network)
    assert torch.equal(again(inputs), found.model(inputs))
    assert found.model[0].out_channels < 8
    # The same call returns what is there.
    same = compress(model, **loaders(), target={}, folder=tmp_path / "mine", stages=STAGES, quiet=True)
    assert same.report == found.report
    other = network()
    nn.init.zeros_(other[0].weight)
    with pytest.raises(SecateursError, match="another model or other data"):
        compress(other, **loaders(), target={}, folder=tmp_path / "mine", stages=STAGES, quiet=True)


@pytest.mark.usefixtures("no_pictures")
def test_the_level_of_the_logger_quiets_the_console_and_not_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("search")
    compress(network(), **loaders(), target={}, folder=tmp_path / "shown", stages=STAGES[:1])
    assert "starting run shown" in capsys.readouterr().out
    monkeypatch.setattr(logger, "level", logger.level)
    logger.setLevel(logging.WARNING)
    compress(network(), **loaders(), target={}, folder=tmp_path / "quiet", stages=STAGES[:1])
    assert capsys.readouterr().out == ""
    lines = (tmp_path / "quiet" / "log.txt").read_text().splitlines()
    assert "starting run quiet" in lines[0]
    assert any("best is trial" in line for line in lines)
    assert lines[-1].endswith("done")
    assert not logger.handlers


def test_batches_are_those_of_the_generator_and_nothing_else() -> None:
    task = LoaderTask(network(), **loaders())

    def drawn(seed: int) -> list[torch.Tensor]:
        torch.rand(1)
        return [inputs for inputs, _ in task.batches("train", 16, torch.Generator().manual_seed(seed))]

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert [len(inputs) for inputs in first] == [16, 16]
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    fixed = list(task.batches("train", 16, limit=20))
    assert [len(inputs) for inputs, _ in fixed] == [16, 4]
    assert torch.equal(fixed[0][0], next(iter(task.batches("train", 16)))[0])


def test_another_loss_and_score() -> None:
    given = loaders()
    task = LoaderTask(
        network(), **given, loss=lambda o, t: (o - 1).abs().mean(), score=lambda o, t: o[:, 0], score_name="worth"
    )
    outputs = torch.arange(6.0).reshape(2, 3)
    assert float(task.loss(outputs, torch.tensor([0, 1]))) == pytest.approx(11 / 6)
    assert task.score(outputs, torch.tensor([0, 1]))["worth"].tolist() == [0.0, 3.0]
    assert task.score_names == ("worth",)


def test_wrong_loaders_and_settings_are_named(tmp_path: Path) -> None:
    given = loaders()
    nothing: Any = DataLoader(TensorDataset(torch.zeros(3, 1, 8, 8)))
    with pytest.raises(LoaderError, match="the loader 'search': expected a torch DataLoader"):
        LoaderTask(network(), given["train"], nothing)
    with pytest.raises(ConfigError, match="target"):
        compress(network(), **given, target={"mac": "<= 40%"}, folder=tmp_path / "mine", quiet=True)
    assert not (tmp_path / "mine").exists()


def test_effort_formats_and_baselines_make_the_pipeline() -> None:
    task = LoaderTask(network(), **loaders())
    searching, retraining, export = recipes.retrained(task, {"macs": "<= 40%"}, 3, 0.1, "quick", ["onnx"], True)
    assert searching["search"]["baselines"] == ["uniform", "global_magnitude"]
    assert retraining["retrain"]["epochs"] == 3
    assert retraining["retrain"]["batch_size"] == 40  # All there are.
    assert export == {"export": {"formats": ["onnx"]}}
    counts = [
        one["population"] * one["generations"]
        for effort in recipes.EFFORTS
        for one in [recipes.retrained(task, {}, 3, 0.1, effort, [], False)[0]["search"]["algorithm"]]
    ]
    assert counts == sorted(counts)
    assert counts[0] * 4 < counts[1]
    (blind,) = recipes.one_shot({}, "thorough", [], ["random"])
    assert blind["search"]["baselines"] == ["random"]
    (brief,) = recipes.one_shot({}, "quick", [], False)
    assert blind["search"]["algorithm"]["generations"] > brief["search"]["algorithm"]["generations"]


@pytest.mark.parametrize(
    ("option", "text"), [({"effort": "fast"}, "quick"), ({"stages": STAGES, "formats": ["onnx"]}, "stages=")]
)
def test_an_effort_that_is_none_and_options_beside_a_whole_pipeline_are_refused(
    option: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(SecateursError, match=text):
        compress(network(), **loaders(), target={}, folder=tmp_path / "mine", **option)
    assert not (tmp_path / "mine").exists()


class Auxiliary(nn.Module):
    """A network with a head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head, self.auxiliary = nn.Conv2d(1, 8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x).relu().mean((2, 3))
        return self.head(x) + self.auxiliary(x) if self.training else self.head(x)


@pytest.mark.usefixtures("no_pictures")
def test_code_that_only_training_runs_is_told_in_the_log_and_the_report(tmp_path: Path) -> None:
    found = compress(Auxiliary(), **loaders(), target={}, stages=STAGES[:1], folder=tmp_path, quiet=True)
    words = "other code runs in training than for the example"
    assert [words in remark for remark in found.report["remarks"]] == [True]
    assert sum(words in line for line in (tmp_path / "log.txt").read_text().splitlines()) == 1


ONE_SHOT = {
    "space": {"name": "channel_mask", "levels": {"steps": 4, "images": 32}},
    "algorithm": {"name": "evolution", "children": 3, "generations": 2, "steps": [[16, 2], [32, 1]]},
    "evaluate": [{"divergence": {"samples": 32, "pool": 64, "batch_norm_batches": 1}}, "cost"],
    "objectives": {"divergence": "minimize"},
    "target": {"macs": "<= 50%"},
    "reconstruct": {"images": 64},
}


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network compressed without labels."""
    images = torch.randn(160, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("one_shot") / "run"
    return compress(network(), calibration=[images], target={}, folder=folder, stages=[{"search": ONE_SHOT}], quiet=True)


def test_a_network_is_compressed_without_labels_and_compared_with_itself(one_shot: Any) -> None:
    result, reference = one_shot.report["result"], one_shot.report["reference"]
    assert result["top1"] is None
    assert reference["metrics"]["agreement"] == 1.0
    assert reference["metrics"]["divergence"] == pytest.approx(0.0, abs=1e-6)
    assert 0.5 < result["metrics"]["agreement"] <= 1.0
    assert result["metrics"]["divergence"] > 0.0
    assert result["macs"] <= 0.5 * reference["macs"]
    assert load(one_shot.folder, network)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calibration": [], "train": []}, "got both kinds"),
        ({"calibration": [], "search": []}, "got both kinds"),
        ({}, "got neither"),
        ({"train": []}, "got neither"),
    ],
)
def test_labelled_and_unlabelled_samples_are_not_mixed(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SecateursError, match=message):
        compress(network(), **given, target={"macs": "<= 50%"}, folder=tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calibration": [], "epochs": 3}, "trains nothing: expected no epochs=3"),
        ({"calibration": [], "lr": 0.1, "score_name": "f1"}, "no score_name='f1' and no lr=0.1"),
        ({"calibration": [], "loss": "model"}, "no loss='model'"),
        ({"calibration": [], "score": lambda outputs, targets: outputs}, "no score=, which"),
        ({**loaders(), "stages": STAGES}, "stages= is the whole pipeline: expected no target=, which would have no effect"),
        ({"calibration": [torch.zeros(8, 1, 8, 8)], "stages": STAGES}, "expected no target="),
        ({**loaders(), "stages": STAGES, "epochs": 3}, "stages= is the whole pipeline: expected no epochs=3"),
        ({**loaders(), "loss": lambda outputs, targets: outputs, "score_name": "f1"}, "expected no score_name='f1'"),
        ({**loaders(), "score": {"name": "torchmetrics.F1Score"}, "score_name": "f1"}, "expected no score_name='f1'"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SecateursError, match=re.escape(message)):
        compress(network(), **given, target={"macs": "<= 50%"}, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
