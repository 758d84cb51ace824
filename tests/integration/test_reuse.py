"""Runs that take over from another one what has the same settings and inputs, and resumed runs with more of something."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from search.cli import app
from search.config import load
from search.pipeline import run
from search.stages.reconstruct import Reconstruct
from search.stages.retrain import Retrain
from search.stages.search.stage import Search
from search.stages.train import Train
from search.study.dashboard import open_to_look
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import SHORT, read_report, timeless, write_config

LONGER = "stages.retrain.epochs=2"

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def earlier(recorded: Callable[[str], Path]) -> Path:
    """Return the folder of a whole run."""
    return recorded(SHORT)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return the steps that are computed during the test, in order."""
    found: list[tuple[str, str]] = []
    for kind in (Train, Search, Retrain, Reconstruct):
        own = kind.run

        def counted(self: Any, network: Any, stage_run: Any, own: Any = own) -> Any:
            found.append((stage_run.step, stage_run.variant))
            return own(self, network, stage_run)

        monkeypatch.setattr(kind, "run", counted)
    return found


def without_origin(report: Any) -> Any:
    kept = timeless(report)
    return {**kept, "stages": [{key: value for key, value in row.items() if key != "reused_from"} for row in kept["stages"]]}


def test_other_epochs_cost_the_retraining_alone_and_end_with_the_bytes_of_a_run_from_scratch(
    earlier: Path, tmp_path: Path, computed: list[tuple[str, str]]
) -> None:
    config = write_config(tmp_path, SHORT)
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    found = run(load(config, [LONGER]), tmp_path / "from" / "tiny", None, earlier=earlier)
    assert computed == [("2-retrain", "result")]
    assert [row.get("reused_from") for row in found["stages"]] == ["tiny", "tiny", None]
    scratch = run(load(config, [LONGER]), tmp_path / "scratch" / "tiny", None)
    assert without_origin(found) == without_origin(scratch)
    for name in ("best/weights.safetensors", "best/architecture.json"):
        assert (tmp_path / "from" / "tiny" / name).read_bytes() == (tmp_path / "scratch" / "tiny" / name).read_bytes()
    assert {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()} == before
    copies = [path for path in (tmp_path / "from").rglob("*") if path.is_file()]
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in copies)
    recorded = [
        optuna.load_study(study_name="tiny/1-search", storage=open_to_look(tmp_path / name / "tiny" / "study.journal")).trials
        for name in ("from", "scratch")
    ]
    assert [trial.params for trial in recorded[0]] == [trial.params for trial in recorded[1]]
    assert len(recorded[0]) == len(found["searches"][0]["trials"])


@pytest.mark.slow
def test_a_run_that_is_the_same_computes_nothing_and_can_be_gone_on_with(
    earlier: Path, tmp_path: Path, computed: list[tuple[str, str]]
) -> None:
    config, folder = write_config(tmp_path, SHORT), tmp_path / "tiny"
    found = run(load(config), folder, None, earlier=earlier)
    assert computed == []
    assert without_origin(found) == without_origin(read_report(earlier))
    # A budget that grows finds the trials that were taken over.
    longer = run(load(config, ["stages.search.algorithm.generations=4"]), folder, None)
    assert computed == [("1-search", "result"), ("2-retrain", "result")]
    trials, known = longer["searches"][0]["trials"], found["searches"][0]["trials"]
    assert trials[: len(known)] == known
    assert len(trials) > len(known)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([LONGER], "0-train, 1-search\ncomputed: 2-retrain (stages.2.retrain.epochs was 1 and is now 2)"),
        (["stages.search.target.macs=<= 50%"], "0-train\ncomputed: 1-search, 2-retrain (stages.1.search.target.macs was"),
        (
            ["stages.search.baselines=[uniform]"],
            "0-train, 1-search, 2-retrain\ncomputed: 1-search (uniform), 2-retrain (uniform)",
        ),
        (["seed=4"], "nothing is reused from {}: seed was 3 and is now 4"),
        (["task.data.search_size=150"], "nothing is reused from {}: task.data.search_size was 100 and is now 150"),
        (["stages.train.epochs=3"], "nothing is reused from {}; computed: 0-train, 1-search, 2-retrain (stages.0.train"),
        (["execution.asynchronous=true"], "0-train\ncomputed: 1-search, 2-retrain"),
    ],
)
def test_check_says_what_would_be_reused(earlier: Path, tmp_path: Path, overrides: list[str], said: str) -> None:
    config = write_config(tmp_path, SHORT)
    arguments = ["check", str(config), *overrides, "--from", str(earlier), "--no-model"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.format(earlier) in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def damaged(folder: Path, name: str, content: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(content(path.read_bytes()))


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/0-train/result/network.safetensors",
        "checkpoints/1-search/result/key.json",
        "environment.json",
        "config.yaml",
    ],
)
def test_a_damaged_piece_is_refused_by_name_before_anything_is_written(earlier: Path, tmp_path: Path, name: str) -> None:
    theirs = Path(shutil.copytree(earlier, tmp_path / "theirs"))
    damaged(theirs, name, lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(SecateursError, match=name.rpartition("/")[2]):
        run(load(write_config(tmp_path, SHORT), [LONGER]), tmp_path / "tiny", None, earlier=theirs)
    assert not (tmp_path / "tiny").exists()


def test_a_folder_that_is_none_and_the_run_s_own_are_refused(earlier: Path, tmp_path: Path) -> None:
    config = load(write_config(tmp_path, SHORT))
    with pytest.raises(SecateursError, match="no folder of a run"):
        run(config, tmp_path / "tiny", None, earlier=tmp_path / "nowhere")
    with pytest.raises(SecateursError, match="own folder"):
        run(config, earlier, None, earlier=earlier)


def test_another_step_s_network_under_a_step_s_key_is_refused(earlier: Path, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(earlier, tmp_path / "theirs"))
    steps = [theirs / "checkpoints" / name / "result" / "network.safetensors" for name in ("0-train", "2-retrain")]
    shutil.copy(steps[1], steps[0])
    with pytest.raises(SecateursError, match=r"0-train/result/network\.safetensors: expected the network of the step"):
        run(load(write_config(tmp_path, SHORT), [LONGER]), tmp_path / "tiny", None, earlier=theirs)


@pytest.mark.slow
def test_more_epochs_of_a_finished_retraining_and_a_baseline_are_taken_on_resume(
    earlier: Path, tmp_path: Path, computed: list[tuple[str, str]]
) -> None:
    folder, config = Path(shutil.copytree(earlier, tmp_path / "tiny")), write_config(tmp_path, SHORT)
    grown = [LONGER, "stages.search.baselines=[uniform]"]
    found = run(load(config, grown), folder, None)
    assert computed == [("1-search", "uniform"), ("2-retrain", "result"), ("2-retrain", "uniform")]
    log = (folder / "log.txt").read_text()
    words = ("runs again from the network that entered it: 2-retrain", "added: 1-search (uniform)")
    said = [log.index(each) for each in words]
    assert max(said) < log.rindex("2-retrain: done in")
    assert timeless(found) == timeless(run(load(config, grown), tmp_path / "scratch" / "tiny", None))
    with pytest.raises(SecateursError, match=r"epochs was 2 and is now 1"):
        run(load(config, ["stages.search.baselines=[uniform]"]), folder, None)
