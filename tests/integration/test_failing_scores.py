"""A person's score that fails at the last step: the report is written with what is known, and nothing is lost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from search.cli import app
from search.compress import Compressed, compress
from search.report import page
from tests.integration.tiny_pipeline import read_report, timeless

SEARCH = {
    "space": {"name": "channel_mask"},
    "algorithm": {"name": "random", "evaluations": 3},
    "evaluate": [{"accuracy": {"batch_norm_batches": 0}}, "cost"],
    "objectives": {"hits": "maximize"},
    "target": {"macs": "<= 70%"},
    "baselines": ["uniform"],
}
STAGES: list[dict[str, Any]] = [{"search": SEARCH}]
TESTED = 2
"""A class that only the test split has."""


class Score:
    """Hits, but for a batch with samples of the test split."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def __call__(self, outputs: Tensor, targets: Tensor) -> Any:
        hits = (outputs.argmax(1) == targets).float()
        if not bool((targets == TESTED).any()) or self.found == "mended":
            return hits
        if isinstance(self.found, Exception):
            raise self.found
        return None if self.found is None else hits * self.found


def loader(classes: int, samples: int = 48) -> DataLoader[Any]:
    drawn = torch.Generator().manual_seed(classes)
    labels = torch.arange(samples) % classes
    return DataLoader(TensorDataset(torch.randn(samples, 4, generator=drawn) + labels[:, None], labels), batch_size=16)


def call(folder: Path, found: Any) -> Compressed:
    """Return what ``compress`` makes of a small network, with a score, or one that finds ``found`` on the test split."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    splits, score = (loader(2), loader(2), loader(3)), found if isinstance(found, Score) else Score(found)
    options: dict[str, Any] = {"score": score, "score_name": "hits", "quiet": True}
    return compress(network, *splits, target={}, folder=folder, stages=STAGES, **options)


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (RuntimeError("no such class"), "RuntimeError: no such class"),
        (None, "MeasurementError: score hits: expected a tensor of a value per sample, got None"),
        (math.nan, "expected a finite number, got nan"),
    ],
    ids=["an exception", "nothing", "not a number"],
)
def test_the_report_is_written_and_names_it(found: Any, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "render_where_installed", lambda folder, say: None)
    folder = tmp_path / "mine"
    compressed = call(folder, found)
    report = read_report(folder)
    assert report == compressed.report
    assert {row["error"] for row in report["failures"]} == {error}
    named = [row["what"] for row in report["failures"]]
    assert [what.partition(":")[0] for what in named] == ["reference", "result", "uniform"]
    assert report["result"]["macs"] <= 0.7 * report["reference"]["macs"]
    assert report["result"]["metrics"].get("hits") is None
    assert "could not be measured: result" in (folder / "log.txt").read_text()
    with torch.no_grad():
        assert compressed.model(torch.zeros(2, 4)).shape == (2, 3)
    # The same call, mended, measures what is missing, and nothing else is done again.
    best = (folder / "best" / "weights.safetensors").stat().st_mtime_ns
    mended = call(folder, "mended").report
    assert mended["failures"] == []
    assert mended["result"]["metrics"]["hits"] > 0
    assert (folder / "best" / "weights.safetensors").stat().st_mtime_ns == best
    assert timeless(mended["searches"]) == timeless(report["searches"])


def test_the_command_prints_it_and_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "render_where_installed", lambda folder, say: None)
    report = call(tmp_path / "mine", RuntimeError("no such class")).report
    monkeypatch.setattr("search.pipeline.repeat.run", lambda config, folder, console, earlier: report)
    config = tmp_path / "mine.yaml"
    text = {"name": "mine", "task": {"model": {"factory": "spaces.networks.digits_cnn"}, "data": "digits"}, "stages": STAGES}
    config.write_text(json.dumps(text).replace("hits", "top1"))
    with pytest.raises(SystemExit) as ended:
        app(["run", str(config), "--runs", str(tmp_path)])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert "could not be measured: result: scores on the test split: RuntimeError: no such class" in told.out
    assert "Nothing is lost" in told.err
