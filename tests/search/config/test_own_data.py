"""A data set by import path: a configuration names it as it names a network, without a task class."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from search.config.document import ConfigError
from search.config.loading import load

MODULE = """
from evaluators.tasks.small_images import Digits


class Few(Digits):
    pass


class Counted(Digits):
    task = "evaluators.tasks.labels:Labels"


def nothing():
    pass
"""
CONFIG = """
name: own
task:
  model: {{factory: spaces.networks.digits_cnn}}
  data: {{name: {name}, search_size: 50}}
stages:
  - search:
      space: channel_mask
      algorithm: {{name: random, evaluations: 2}}
      evaluate: [accuracy, cost]
      objectives: {{{score}: maximize}}
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_images.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_images", raising=False)


def written(folder: Path, name: str, score: str = "top1") -> Path:
    path = folder / "own.yaml"
    path.write_text(CONFIG.format(name=name, score=score))
    return path


@pytest.mark.parametrize("name", ["own_images.Few", "own_images:Few"])
def test_its_task_is_built_and_its_samples_are_read(name: str, tmp_path: Path) -> None:
    config = load(written(tmp_path, name))
    task = config.build_task()
    assert task.size("search") == 50
    assert type(task).__name__ == "Classification"
    assert config.canonical()["task"]["data"]["name"] == name


def test_the_scores_are_those_of_the_task_that_it_names(tmp_path: Path) -> None:
    assert type(load(written(tmp_path, "own_images.Counted", "f1")).build_task()).__name__ == "Labels"


@pytest.mark.parametrize(
    ("name", "text"), [("own_images.nothing", "a data set, a class"), ("own_images.Many", "has no 'Many'")]
)
def test_another_thing_at_the_path_is_named_with_its_line(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"line 5.*{text}"):
        load(written(tmp_path, name))
