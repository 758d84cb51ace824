"""Data by import path: a function that returns torch data sets or data loaders, named in a configuration."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.tasks.imported_data import ImportedDataError
from evaluators.tasks.loader_samples import LoaderError
from search.config.document import ConfigError
from search.config.loading import load
from search.pipeline.preflight import preflight
from search.pipeline.start import Start
from tests.paths import REPOSITORY

MODULE = """
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset, random_split

IMAGES = torch.randn(120, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES.mean((1, 2, 3)) > 0).long()
ALL = TensorDataset(IMAGES, LABELS)
NUMBERS = TensorDataset(IMAGES, IMAGES.mean((2, 3)))


class Plain:
    def __init__(self, first, last):
        self.first, self.last = first, last

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return ALL[self.first + index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ALL)


class Endless(Dataset):
    def __getitem__(self, index):
        return ALL[0]


def pair(train=80):
    return Plain(0, train), Plain(train, 120)


def three():
    return Plain(0, 60), Plain(60, 80), Plain(80, 120)


def named():
    return {"test": Plain(80, 120), "train": Plain(0, 80)}


def loaders():
    def over(first, last, **options):
        return DataLoader(Plain(first, last), batch_size=16, **options)

    return over(0, 80, shuffle=True, drop_last=True), over(80, 120)


def batches():
    def of(first, last):
        return [(IMAGES[i : i + 20], LABELS[i : i + 20]) for i in range(first, last, 20)]

    return of(0, 80), of(80, 120)


def drawn():
    return random_split(ALL, [80, 40])


def numbers():
    return NUMBERS, NUMBERS


def one():
    return ALL


def four():
    return (ALL,) * 4


def without_test():
    return {"train": ALL, "search": ALL}


def misnamed():
    return {"train": ALL, "val": ALL}


def stream():
    return Stream(), ALL


def endless():
    return Endless(), ALL


def empty():
    return Plain(0, 0), ALL


def text():
    return "train", "test"


def sampled():
    return DataLoader(ALL, sampler=SubsetRandomSampler(range(40))), ALL


def many_classes():
    return TensorDataset(IMAGES, LABELS + 5), ALL


def mappings():
    class Named(Plain):
        def __getitem__(self, index):
            return dict(zip(("image", "label"), super().__getitem__(index)))

    return Named(0, 80), Named(80, 120)


def pictures():
    from PIL import Image

    class Pictures(Plain):
        def __getitem__(self, index):
            return Image.new("L", (8, 8)), super().__getitem__(index)[1]

    return Pictures(0, 80), Pictures(80, 120)


def fails():
    raise FileNotFoundError("no such folder: /data/mine")
"""
CONFIG = """
name: own
task:
  model: {{factory: spaces.networks.digits_cnn, arguments: {{classes: {classes}}}}}
  data: {{factory: own_data.{function}{options}}}
{more}
stages:
  - train: {{epochs: 1, batch_size: 16}}
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)


def configured(folder: Path, function: str, options: str = "", more: str = "", classes: int = 2) -> Any:
    path = folder / "own.yaml"
    path.write_text(CONFIG.format(function=function, options=options, more=more, classes=classes))
    return load(path)


def sizes(task: Any) -> list[int]:
    return [task.size(split) for split in ("train", "search", "test")]


@pytest.mark.parametrize("function", ["pair", "named", "loaders", "batches", "drawn"])
def test_a_tenth_of_train_is_set_aside_where_no_search_is_returned(function: str, tmp_path: Path) -> None:
    task = configured(tmp_path, function).build_task()
    assert sizes(task) == [72 if function != "loaders" else 64, 8, 40]
    images, labels = next(iter(task.batches("search", 8)))
    assert (images.shape, labels.shape, labels.dtype) == ((8, 1, 8, 8), (8,), torch.int64)
    trained = torch.cat([images for images, _ in task.batches("train", 16)])
    assert not any(torch.equal(image, other) for image in images for other in trained)


def test_a_search_that_is_returned_is_taken_whole(tmp_path: Path) -> None:
    task = configured(tmp_path, "three").build_task()
    assert sizes(task) == [60, 20, 40]
    assert task.score_name == "top1"


def test_options_reach_the_function_and_the_split(tmp_path: Path) -> None:
    one, other = (
        configured(tmp_path, "pair", f", arguments: {{train: 100}}, search_size: 30, split_seed: {seed}").build_task()
        for seed in (0, 1)
    )
    assert sizes(one) == sizes(other) == [70, 30, 20]
    assert one.fingerprint != other.fingerprint


def test_what_the_function_draws_is_the_same_in_every_run_and_moves_no_global_state(tmp_path: Path) -> None:
    before = torch.default_generator.get_state()
    prints = {configured(tmp_path, "drawn").build_task().fingerprint for _ in range(2)}
    assert len(prints) == 1
    assert torch.equal(before, torch.default_generator.get_state())


def test_the_configuration_reads_back_to_the_same(tmp_path: Path) -> None:
    config = configured(tmp_path, "numbers", ", search_size: 30", "  loss: torch.nn.MSELoss", classes=1)
    task = config.canonical()["task"]
    assert task["data"]["factory"] == "own_data.numbers"
    assert task["loss"] == "torch.nn.MSELoss"
    assert "loss" not in configured(tmp_path, "pair").canonical()["task"]


def test_check_reads_a_batch_and_tells_the_sizes(tmp_path: Path) -> None:
    config = configured(tmp_path, "pair")
    lines = list(preflight(config, Start(config)))
    assert "data: 72 train, 8 search, 40 test" in lines
    assert any("forward pass: outputs of" in line for line in lines)


@pytest.mark.parametrize("loss", ["torch.nn.functional.mse_loss", "torch.nn.MSELoss"])
def test_a_loss_by_import_path_is_the_score_that_is_minimized(loss: str, tmp_path: Path) -> None:
    task = configured(tmp_path, "numbers", ", search_size: 30", f"  loss: {loss}", classes=1).build_task()
    assert (task.score_name, task.score_sign) == ("loss", -1.0)
    outputs = torch.tensor([[1.0], [3.0]])
    assert float(task.loss(outputs, torch.zeros(2, 1))) == 5.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one", "expected (train, test), (train, search, test) or a mapping with these names, each a torch Dataset or"),
        ("one", "got a TensorDataset"),
        ("four", "got a tuple of 4"),
        ("without_test", "got a mapping with train, search"),
        ("misnamed", "got a mapping with train, val"),
        ("stream", "Stream is iterable only"),
        ("endless", "Endless has no __len__"),
        ("empty", "Plain is empty"),
        ("text", "got a str"),
        ("sampled", "can't be set aside from a DataLoader with a SubsetRandomSampler; return (train, search, test)"),
        ("fails", "own_data.fails called with {} failed: FileNotFoundError: no such folder: /data/mine"),
    ],
)
def test_what_is_no_data_of_a_task_is_named(function: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImportedDataError, match=re.escape(message)):
        configured(tmp_path, function).build_task()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("many_classes", r"^task\.data own_data\.many_classes: the loader 'train'.*classes from 5 to 6"),
        ("numbers", r"in a configuration loss= is task\.loss"),
        ("mappings", r"a mapping with image, label: return \(inputs, targets\) from a collate_fn"),
        ("pictures", r"pass it a transform, such as torchvision\.transforms\.ToTensor\(\)"),
    ],
)
def test_samples_that_do_not_fit_are_named_with_the_function(function: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match=message):
        configured(tmp_path, function).build_task()


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportedDataError, match="search_size 80 leaves nothing to train on: train has 80 samples"):
        configured(tmp_path, "pair", ", search_size: 80").build_task()


@pytest.mark.parametrize(
    ("function", "options", "more", "message"),
    [
        ("nowhere", "", "", r"line 5.*has no 'nowhere'"),
        ("IMAGES", "", "", r"line 5.*expected a class or a function, got a Tensor"),
        ("pair", ", arguments: {rows: 3}", "", r"line 5.*own_data.pair cannot be called with these.*it takes: train"),
        ("pair", ", search_sizes: 3", "", r"line 5.*did you mean 'search_size'"),
        ("pair", ", search_size: 0", "", r"line 5.*expected at least 1 sample, got 0"),
        ("pair", "", "  loss: torch.nn.functional.mse_los", r"line 6.*has no 'mse_los'"),
        ("pair", "", "  loss: {name: torch.nn.MSELoss}", r"line 6.*expected an import path"),
    ],
)
def test_mistakes_in_the_file_have_their_line(function: str, options: str, more: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(tmp_path, function, options, more)


def test_a_loss_beside_a_registered_data_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ntask:\n  model: {factory: spaces.networks.digits_cnn}\n  data: {name: digits}\n"
        "  loss: torch.nn.MSELoss\nstages:\n  - train: {epochs: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"line 5.*a registered data set has its own loss"):
        load(path)


def test_a_function_where_a_data_set_is_named_is_told_how_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ntask:\n  model: {factory: spaces.networks.digits_cnn}\n  data: {name: own_data.pair}\n"
        "stages:\n  - train: {epochs: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"line 4.*written as \{factory: \.\.\., arguments: \{\.\.\.\}\}"):
        load(path)


def test_the_example_of_the_documents_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8").partition("## Data of your own by import path")[2]
    module, task = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml"))
    assert module is not None
    assert task is not None
    (tmp_path / "my_data.py").write_text(module[1])
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\n{task[1]}stages:\n  - train: {{epochs: 1}}\n")
    assert sizes(load(path).build_task()) == [240, 60, 100]
