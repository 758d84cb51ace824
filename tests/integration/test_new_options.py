"""Run folders that know less options than the code: they are gone on with, unless a new option is set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from search.config.loading import load
from search.pipeline import run
from search.run.run_folder import RunFolderError
from tests.integration.tiny_pipeline import read_report, write_config

STAGE = """
from dataclasses import dataclass
from typing import ClassVar

from search.stages.base import Stage

RUNS = []


@dataclass(frozen=True)
class Settings:
    \"\"\"Options.

    Attributes:
        factor: A number.
        offset: Another.
    \"\"\"

    __pydantic_config__: ClassVar[dict[str, str]] = {{"extra": "forbid"}}

    factor: float = 1.0
    {option}


class Aged(Stage[Settings]):
    Settings = Settings
    purpose = "grows older"

    def run(self, network, run):
        RUNS.append(run.step)
        return network
"""
CONFIG = """\
name: aged
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 2}}
  data: {name: digits, search_size: 50, train_size: 50}
stages:
  - aged_stage.Aged: {factor: 2.0}
  - train: {epochs: 1, batch_size: 50}
"""

pytestmark = pytest.mark.usefixtures("no_pictures")


def version(folder: Path, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a version of the stage, in place of the one that is imported."""
    (folder / "aged_stage.py").write_text(STAGE.format(option=option))
    monkeypatch.delitem(sys.modules, "aged_stage", raising=False)
    for cached in folder.glob("__pycache__/aged_stage.*"):
        cached.unlink()


def ran() -> list[str]:
    """Return the runs of the stage since its version was installed."""
    found: list[str] = sys.modules["aged_stage"].RUNS
    return found


def test_a_new_option_at_its_default_costs_nothing_and_a_changed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    version(tmp_path, "", monkeypatch)
    path, folder = write_config(tmp_path, CONFIG), tmp_path / "runs" / "aged"
    run(load(path), folder)
    assert ran() == ["0-aged_stage.Aged"]
    (folder / "report.json").unlink()

    version(tmp_path, "offset: float = 0.0", monkeypatch)
    run(load(path), folder)
    assert ran() == []
    # A run that takes over from it, and has a record of its own that knows the option, computes nothing either.
    other = tmp_path / "runs" / "other"
    found = run(load(path, ["name=other"]), other, earlier=folder)
    assert [row.get("reused_from") for row in found["stages"]] == ["aged", "aged"]
    run(load(path, ["name=other"]), other)
    assert ran() == []
    assert (other / "best").exists() == (folder / "best").exists()

    for options, message in (
        ("{factor: 2.0, offset: 1.0}", r"stages\.0\.aged_stage\.Aged\.offset was None and is now 1\.0"),
        ("{factor: 3.0}", r"stages\.0\.aged_stage\.Aged\.factor was 2\.0 and is now 3\.0"),
    ):
        changed = load(write_config(tmp_path, CONFIG.replace("{factor: 2.0}", options)))
        with pytest.raises(RunFolderError, match=message):
            run(changed, folder)
    assert "offset" not in (folder / "config.yaml").read_text()
    assert read_report(folder)["name"] == "aged"
