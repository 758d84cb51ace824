"""A stage is one file and one line: the order rules hold for one that they have never heard of."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from search.config import load
from search.config.document import ConfigError
from search.config.stage_kind import Surroundings
from search.run.network import Network
from search.run.stage_run import StageRun
from search.stages import STAGES
from search.stages.base import Stage, placed_stages
from search.stages.testing import check_stage, check_stage_settings
from tests.integration.stage_pieces import HEAD, PIECES


@dataclass(frozen=True)
class Settings:
    """Settings of the stages below.

    Attributes:
        share: A share.
        of: What it is of.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    share: float = 0.5
    of: str = "weights"


class Plain(Stage[Settings]):
    """A stage with nothing but defaults."""

    Settings = Settings

    def run(self, network: Network, run: StageRun) -> Network:
        return network


class Halve(Plain):
    """Removes something, from networks of floats."""

    removes = True
    compresses = True
    float_option = "share"


class Round(Plain):
    """Leaves a quantized network."""

    quantizes = True


class Freeze(Plain):
    """For inference only."""

    for_inference = True


class Prepare(Plain):
    """Of use before a search."""

    needs_search = True


class Polish(Plain):
    """Of use behind a removal."""

    needs_removal = True
    instead = "train"


class Publish(Plain):
    """The last one."""

    last = True


class Picky(Plain):
    """With settings that don't fit together."""

    def faults(self, surroundings: Surroundings) -> Iterable[tuple[tuple[str | int, ...], str]]:
        if self.settings.of == "weights" and self.settings.share > 1:
            yield ("share",), "expected at most 1 of the weights"


TOYS = (Plain, Halve, Round, Freeze, Prepare, Polish, Publish, Picky)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for toy in TOYS:
        monkeypatch.setitem(STAGES, toy.__name__.lower(), f"{__name__}:{toy.__name__}")


def written(folder: Path, *stages: str) -> Path:
    """Write a configuration of shipped pieces, and of toys by their names and options."""
    path = folder / "toy.yaml"
    path.write_text(HEAD + "".join(f"  - {PIECES.get(stage, stage)}\n" for stage in stages))
    return path


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("freeze", "train"), "stages.0: freeze is for inference only, and train comes after it"),
        (("publish", "train"), "stages.0: publish must be the last stage"),
        (("train", "prepare", "export"), "stages.1: prepare prepares a search, and none comes after it"),
        (("plain", "polish"), "stages.1: polish works on what a search leaves, and no search comes before it"),
        (("plain", "polish"), "or use `train`"),
        (("round", "channels"), "stages.1.search.space: stages.0.round leaves a quantized network"),
        (("bits", "halve"), "stages.1.halve.share: stages.0.search leaves a quantized network"),
        (("picky: {share: 2.0}",), "stages.0.picky.share: expected at most 1 of the weights"),
        (("plain", "train: {epochs: 1, distillation: {}}"), "stages.1.train.distillation: "),
    ],
)
def test_a_new_stage_in_a_wrong_place_is_refused_with_its_place(tmp_path: Path, stages: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, *stages))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "stages",
    [
        ("plain", "train"),
        ("halve", "retrain"),
        ("halve", "polish", "freeze", "publish"),
        ("prepare", "channels", "freeze", "export"),
        ("halve", "bits"),
        ("halve", "train: {epochs: 1, distillation: {}}"),
        ("picky: {share: 2.0, of: biases}",),
    ],
)
def test_a_new_stage_in_a_right_place_is_accepted(tmp_path: Path, stages: tuple[str, ...]) -> None:
    config = load(written(tmp_path, *stages))
    assert [placed.step for placed in placed_stages(config)] == [
        f"{index}-{stage.name}" for index, stage in enumerate(config.stages)
    ]


def test_a_stage_with_faults_of_its_own_keeps_its_place_in_the_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "publish: {shaer: 1}", "train"))
    assert "stages.0.publish.shaer: unknown key" in str(caught.value)
    assert "stages.0: publish must be the last stage" in str(caught.value)


class Grows(Plain):
    """Says nothing of what it changes."""

    def run(self, network: Network, run: StageRun) -> Network:
        model = copy.deepcopy(network.model)
        with torch.no_grad():
            next(model.parameters()).mul_(2.0)
        return Network(model)


class Spoils(Plain):
    """Changes the network that enters."""

    def run(self, network: Network, run: StageRun) -> Network:
        with torch.no_grad():
            next(network.model.parameters()).mul_(2.0)
        return network


class Says(Plain):
    """Claims to quantize."""

    quantizes = True


def test_the_kit_passes_a_right_stage_and_names_what_is_wrong_with_another(tmp_path: Path) -> None:
    task = load(written(tmp_path, "plain")).build_task()
    options = {"share": 0.3}
    check_stage_settings(Plain)
    check_stage(Plain, options, task, tmp_path / "plain")
    for wrong, message in (
        (Grows, "the network was changed"),
        (Spoils, "run: expected a network that is left unchanged"),
        (Says, "quantizes: True"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_stage(wrong, options, task, tmp_path / wrong.__name__)
