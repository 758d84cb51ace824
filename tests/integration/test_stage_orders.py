"""Stages in any order: what makes sense runs, and the rest is refused before anything runs, with its place."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest

from search.config import load
from search.config.document import ConfigError
from search.export import load as load_best
from search.pipeline import run
from search.pipeline.rehearsal import rehearse
from tests.integration.stage_pieces import PIECES, pipeline
from tests.integration.tiny_pipeline import read_report, write_config
from tests.variants import few

SPARSIFIERS = ("scaling", "probabilistic", "gradient_cut")
CHANNELS = ("channels", "channels_optuna", "schedule", "filters")
BITS = ("bits", "progressive", "joint")
CHEAP = [
    ("train", "scaling", "bits", "retrain", "fuse", "export"),
    ("probabilistic", "gradient_cut", "channels", "export"),
    ("schedule", "bits"),
    ("filters", "retrain", "progressive", "fuse"),
    ("channels", "channels_optuna", "progressive", "export"),
    ("channels", "scaling", "filters", "bits", "retrain"),
]
ALL = [
    *((search, "retrain", "fuse", "export") for search in (*CHANNELS, *BITS)),
    *(("train", sparse, search, "retrain", "export") for sparse in SPARSIFIERS for search in (*CHANNELS, *BITS)),
    *((first, second, "export") for first, second in itertools.product(CHANNELS, (*CHANNELS, *BITS))),
    *((search, sparse, "export") for search in CHANNELS for sparse in SPARSIFIERS[1:]),
    ("probabilistic", "gradient_cut", "retrain", "export"),
    ("train", "export"),
    ("train", "fuse", "export"),
]
REFUSED = [
    *(((first, second, "export"), "stages.1.search.space") for first in BITS for second in (*CHANNELS, *BITS)),
    *(((first, sparse, "retrain"), "stages.1.sparse_training.sparsifier") for first in BITS for sparse in SPARSIFIERS[1:]),
    (("bits", "scaling", "channels"), "stages.1.sparse_training.sparsifier"),
    (("fuse", "train"), "stages.0: fuse merges for inference only"),
    (("fuse", "bits"), "stages.0: fuse merges for inference only"),
    (("channels", "fuse", "retrain"), "stages.1: fuse merges for inference only"),
    (("export", "train"), "stages.0: export must be the last stage"),
    (("channels", "export", "bits"), "stages.1: export must be the last stage"),
    (("retrain", "bits"), "stages.0: retrain trains the network that a search leaves"),
    (("train", "scaling"), "stages.1: sparse_training prepares a search"),
    (("channels", "scaling"), "stages.1: sparse_training prepares a search"),
]


def name(case: object) -> str:
    return "-".join(case) if isinstance(case, tuple) else str(case)


@pytest.mark.parametrize(("stages", "place"), REFUSED, ids=name)
def test_an_order_that_makes_no_sense_is_refused_with_its_place(tmp_path: Path, stages: tuple[str, ...], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write_config(tmp_path, pipeline(*stages)))
    assert place in str(caught.value)


@pytest.mark.parametrize("stages", few(CHEAP, 3), ids=name)
def test_an_order_that_makes_sense_is_accepted(tmp_path: Path, stages: tuple[str, ...]) -> None:
    assert list(rehearse(load(write_config(tmp_path, pipeline(*stages)))))


@pytest.mark.slow
def test_all_methods_in_one_run(tmp_path: Path) -> None:
    stages = ("train", "scaling", "channels", "retrain", "progressive", "retrain", "fuse", "export")
    run(load(write_config(tmp_path, pipeline(*stages))), tmp_path / "run")
    report = read_report(tmp_path / "run")
    assert [stage["name"] for stage in report["stages"]][2] == "search"
    assert report["result"]["macs"] <= 0.7 * report["reference"]["macs"]
    assert report["result"]["bit_operations"] <= 0.06 * report["reference"]["bit_operations"]
    assert report["deployment"]["integer_layers"] + report["deployment"]["float_layers"] > 0
    assert load_best(tmp_path / "run") is not None


@pytest.mark.usefixtures("no_pictures")
def test_a_target_that_the_network_of_an_earlier_search_can_not_reach_is_reported_as_missed(tmp_path: Path) -> None:
    # Nobody can say before the first search has ended what the second one can come down to.
    second = PIECES["channels"].replace("space: channel_mask", "space: {name: channel_mask, max_ratio: 0.3}")
    text = f"{pipeline('channels')}  - {second.replace('70%', '2%')}\n"
    config = load(write_config(tmp_path, text))
    assert list(rehearse(config))
    run(config, tmp_path / "run")
    report = read_report(tmp_path / "run")
    assert report["target_met"] is False
    assert report["searches"][0]["target_met"] is True
    assert {trial["feasible"] for trial in report["searches"][1]["trials"]} == {False}
    limit = report["searches"][1]["target"]["macs"]
    assert limit == pytest.approx(0.02 * report["reference"]["macs"])
    # The smallest network of the second space it is, then.
    assert limit < report["result"]["macs"] < report["searches"][0]["metrics"]["macs"]
    layers = report["searches"][1]["layers"]
    assert [layer["kept"] for layer in layers] == [math.ceil(0.7 * layer["channels"]) for layer in layers]
    assert "is out of reach of the network that the stages before have left" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stages", ALL, ids=name)
def test_an_order_that_makes_sense_runs(tmp_path: Path, stages: tuple[str, ...]) -> None:
    run(load(write_config(tmp_path, pipeline(*stages))), tmp_path / "run")
    assert read_report(tmp_path / "run")["result"]["loss"] > 0.0
    assert (tmp_path / "run" / "report.html").exists()


def test_the_score_of_a_network_that_is_compressed_as_it_comes_is_told(tmp_path: Path) -> None:
    lines = list(rehearse(load(write_config(tmp_path, pipeline("channels")))))
    (told,) = [line for line in lines if line.startswith("score: ")]
    assert re.fullmatch(r"score: top1 0\.\d{4} as it is, on 100 samples of the search split", told)
    trained_here = list(rehearse(load(write_config(tmp_path, pipeline("train", "channels")))))
    assert not any(line.startswith("score: ") for line in trained_here)
