"""Several seeds of a run, in its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.config import load
from search.pipeline.repeat import repeat
from search.report.page import render
from search.report.seeds import seed_rows
from tests.integration.tiny_pipeline import SHORT
from tests.search.report.report_sample import network, sample, write_run


def seeded(scores: list[float]) -> dict[str, object]:
    runs = [
        {
            "seed": seed,
            "reference": network(0.9, 1e6),
            "result": network(score, 4e5),
            "baselines": {"uniform": network(score - 0.01, 4e5)},
        }
        for seed, score in enumerate(scores)
    ]
    return {**sample(20), "seeds": runs}


def test_mean_and_spread_are_over_the_seeds() -> None:
    result, uniform, reference = seed_rows(seeded([0.88, 0.9, 0.92]))
    assert (result.name, result.strong) == ("this result", True)
    assert result.cells == ("90.00 ± 2.00 %", "+0.00 ± 2.00", "40.0 %", "10.8 kB", "88.00, 90.00, 92.00")
    assert uniform.cells[:2] == ("89.00 ± 2.00 %", "-1.00 ± 2.00")
    assert reference.cells[:3] == ("90.00 ± 0.00 %", "", "100.0 %")
    assert seed_rows(seeded([0.88])) == []
    assert seed_rows(sample(20)) == []


@pytest.mark.usefixtures("no_pictures")
def test_the_page_shows_them_and_what_the_run_has_cost(tmp_path: Path) -> None:
    report = seeded([0.88, 0.9])
    write_run(tmp_path, report)
    page = render(tmp_path).read_text()
    assert "<h2>Seeds</h2>" in page
    assert "88.00, 90.00" in page
    assert "20 evaluations" in page
    write_run(tmp_path, sample(20))
    assert "<h2>Seeds</h2>" not in render(tmp_path).read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_is_repeated_in_folders_of_their_own_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SHORT)
    config = load(tmp_path / "tiny.yaml", ["stages.search.algorithm.generations=1"])
    report = repeat(config, tmp_path / "runs" / "tiny", 2)
    assert [run["seed"] for run in report["seeds"]] == [3, 4]
    other = json.loads((tmp_path / "runs" / "tiny-seed-4" / "report.json").read_text())
    assert report["seeds"][1]["result"] == other["result"]
    assert other["seed"] == 4
    assert "seeds" not in other
    assert (tmp_path / "runs" / "tiny-seed-4" / "best" / "weights.safetensors").exists()
    assert report["seeds"][0]["result"] != other["result"]
    again = repeat(config, tmp_path / "runs" / "tiny", 2)
    assert again == report == json.loads((tmp_path / "runs" / "tiny" / "report.json").read_text())
