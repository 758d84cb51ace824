"""Run folders of earlier versions: the network loads, the report is rendered, going on is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from search.config import load as load_config
from search.config.document import ConfigError
from search.export import load
from search.pipeline import run
from search.report.page import render
from search.run.run_folder import RunFolderError
from tests.paths import REPOSITORY


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Return a copy of a folder that was made before folders were moved and words renamed."""
    folder = tmp_path / "before_moves"
    shutil.copytree(REPOSITORY / "tests" / "golden" / "before_the_moves", folder)
    return folder


def test_its_network_loads_with_the_accuracy_and_size_that_were_reported(earlier: Path) -> None:
    report = json.loads((earlier / "report.json").read_text())
    network = load(earlier)
    assert sum(parameter.numel() for parameter in network.parameters()) == report["result"]["parameters"]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_its_report_shows_reference_and_baselines(earlier: Path) -> None:
    page = render(earlier).read_text()
    for name in ("reference", "uniform", "random", "dense"):
        assert name in page
    report = json.loads((earlier / "report.json").read_text())
    for network in (report["baseline"], report["yardsticks"]["uniform"]):
        assert f"{100 * network['top1']:.2f}" in page


def test_that_it_has_no_digests_is_told_once(earlier: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(earlier)
    (record,) = caplog.records
    assert "architecture.json has no digest: it is from an earlier version" in record.getMessage()


def test_its_configuration_is_refused_with_the_new_word_and_its_line(earlier: Path) -> None:
    lines = (earlier / "config.yaml").read_text().splitlines()
    (line,) = [number for number, text in enumerate(lines, 1) if "yardsticks" in text]
    with pytest.raises(ConfigError, match=f"line {line}.*'baselines' instead of 'yardsticks'"):
        load_config(earlier / "config.yaml")


def test_going_on_with_it_is_refused_and_changes_nothing(earlier: Path) -> None:
    config = earlier.parent / "mine.yaml"
    config.write_text((earlier / "config.yaml").read_text().replace("yardsticks", "baselines"))
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match="'yardsticks' for what is now 'baselines'.*another name"):
        run(load_config(config), earlier, Console(quiet=True))
    after = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file() and path.name not in (".lock", "log.txt")}
    assert after == before
