"""Other budgets from the tables of a finished search: no stage before it runs again, and a missing piece is named."""

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
from search.config.goal import parse_budgets
from search.executors.trial_evaluator import TrialEvaluator
from search.pipeline import run
from search.pipeline.resolve import resolutions, resolve
from search.run import earlier_run
from search.stages.train import Train
from search.study.storage import open_journal
from spaces.errors import SecateursError
from spaces.files.json_file import read_record, write_record
from tests.integration.tiny_pipeline import read_report, timeless, write_config

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - train: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: channel_mask, levels: {steps: 4, images: 64, divergence_images: 32}}
      algorithm: {name: evolution, children: 2, generations: 1, steps: [[16, 1]]}
      evaluate: [{divergence: {samples: 32, pool: 100, batch_norm_batches: 2}}, cost]
      objectives: {divergence: minimize}
      target: {macs: "<= 60%"}
      reconstruct: {images: 64, positions: 2000}
      baselines: [uniform, integer_program, random]
"""
DIVERGENCE = Path("checkpoints/1-search/result/divergence.json")
TRAINED = Path("checkpoints/0-train/result/network.safetensors")
WEIGHTS = Path("best/weights.safetensors")


class Kill(BaseException):
    """A kill in the middle of a run."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    run(load(write_config(place, CONFIG)), place / "tiny", None)
    return place / "tiny"


def resolved(source: Path, *texts: str, runs: Path, refine: int = 0) -> list[dict[str, Any]]:
    return resolve(source, resolutions(source, parse_budgets(texts), refine, runs))


@pytest.fixture(scope="module")
def other(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of another budget, refined by a generation."""
    runs = tmp_path_factory.mktemp("other")
    resolved(finished, "macs<=30%", runs=runs, refine=1)
    return runs / "tiny-macs-30pct-refine-1"


def test_the_network_keeps_the_other_budget_and_nothing_before_the_search_runs_again(finished: Path, other: Path) -> None:
    report = read_report(other)
    assert report["target"] == {"macs": "<= 30%"}
    assert report["target_met"]
    assert 0.2 < report["result"]["macs"] / report["reference"]["macs"] <= 0.3
    assert set(report["baselines"]) == {"uniform"}, "a baseline that is a search of its own is left out"
    for piece in (TRAINED, DIVERGENCE):
        assert (other / piece).read_bytes() == (finished / piece).read_bytes()
    log = (other / "log.txt").read_text()
    assert "measuring the divergence" not in log
    assert "learning the order" not in log
    assert "0-train: done" not in log


@pytest.mark.slow
def test_the_evolution_starts_from_the_integer_program_and_ends_no_worse(finished: Path, other: Path, tmp_path: Path) -> None:
    (plain,) = resolved(finished, "macs<=30%", runs=tmp_path)
    (search,) = plain["searches"]
    assert len(search["algorithm"]["programmes"]) == len(search["trials"]) == 1
    exact = search["fingerprint"]
    trials = read_report(other)["searches"][0]["trials"]
    assert len(trials) == 3
    study = optuna.load_study(study_name="tiny-macs-30pct-refine-1/1-search", storage=open_journal(other / "study.journal"))
    first, last = (study.trials[place].user_attrs["algorithm"]["steps"][0]["candidates"] for place in (0, -1))
    assert exact in {row["fingerprint"] for row in first}
    scores = {row["fingerprint"]: row["score"] for row in last}
    assert scores[study.trials[-1].user_attrs["fingerprint"]] <= scores[exact]


@pytest.mark.parametrize("after", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_kill_changes_nothing(
    after: int, finished: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    original: Callable[..., Any] = TrialEvaluator.evaluate

    def evaluate(self: TrialEvaluator, job: Any, *rest: Any) -> Any:
        if len(done) == after:
            raise Kill
        done.append(job)
        return original(self, job, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(TrialEvaluator, "evaluate", evaluate)
        with pytest.raises(Kill):
            resolved(finished, "macs<=30%", runs=tmp_path, refine=1)
    resolved(finished, "macs<=30%", runs=tmp_path, refine=1)
    folder = tmp_path / other.name
    assert timeless(read_report(folder)) == timeless(read_report(other))
    assert (folder / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_a_kill_between_pieces_trains_nothing_again(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: Path, content: bytes) -> None:
        if path.name == TRAINED.name and "0-train" in str(path):
            raise Kill
        original(path, content)

    original = earlier_run.replace_file
    with monkeypatch.context() as patched:
        patched.setattr(earlier_run, "replace_file", stop)
        with pytest.raises(Kill):
            resolved(finished, "macs<=30%", runs=tmp_path)
    monkeypatch.setattr(Train, "run", None)
    (report,) = resolved(finished, "macs<=30%", runs=tmp_path)
    assert report["target_met"]


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_figures_of_the_reference_are_taken_from_a_run_of_this_account(own: bool, finished: Path, tmp_path: Path) -> None:
    source = copy(finished, tmp_path)
    measured, kept = (source / "checkpoints" / name for name in ("measurements.json", "retention.json"))
    rows, relevance = read_record(measured), read_record(kept)
    rows["reference"]["row"]["loss"] = 12.5
    write_record(measured, rows)
    values = relevance["reference"]["row"]["values"]
    relevance["reference"]["row"]["values"] = [2 * value for value in values]
    write_record(kept, relevance)
    if not own:
        environment = source / "environment.json"
        write_record(environment, {**read_record(environment), "run_id": "of another account"})
    (report,) = resolved(source, "macs<=30%", runs=tmp_path)
    (plain,) = resolved(finished, "macs<=30%", runs=tmp_path / "plain")
    assert (report["reference"]["loss"] == 12.5) is own
    assert report["reference"]["top1"] == plain["reference"]["top1"]
    retained, expected = (one["retention"]["result"]["retained"] for one in (report, plain))
    assert retained == pytest.approx(expected / 2 if own else expected)


def copy(finished: Path, place: Path) -> Path:
    return Path(shutil.copytree(finished, place / "copy"))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_network_that_is_missing_or_damaged_is_named(damaged: bool, finished: Path, tmp_path: Path) -> None:
    source = copy(finished, tmp_path)
    if damaged:
        content = bytearray((source / TRAINED).read_bytes())
        content[-3] ^= 1
        (source / TRAINED).write_bytes(content)
    else:
        (source / TRAINED).unlink()
    with pytest.raises(SecateursError, match=str(TRAINED)):
        resolved(source, "macs<=30%", runs=tmp_path / "runs")


def test_a_configuration_that_was_edited_is_refused(finished: Path, tmp_path: Path) -> None:
    source = copy(finished, tmp_path)
    config = source / "config.yaml"
    config.write_text(config.read_text().replace("seed: 3", "seed: 4"))
    with pytest.raises(SecateursError, match="does not match the digest"):
        resolved(source, "macs<=30%", runs=tmp_path / "runs")


def test_steps_of_other_data_are_refused(finished: Path, tmp_path: Path) -> None:
    source = copy(finished, tmp_path)
    environment = source / "environment.json"
    write_record(environment, {**read_record(environment), "task_fingerprint": "0"})
    (asked,) = resolutions(source, parse_budgets(["macs<=30%"]), 0, tmp_path)
    with pytest.raises(SecateursError, match="other data"):
        resolve(source, [asked])
    assert not asked.folder.exists()


@pytest.mark.slow
def test_a_table_that_is_missing_is_named_and_measured_once(finished: Path, tmp_path: Path) -> None:
    source = copy(finished, tmp_path)
    (source / DIVERGENCE).unlink()
    reports = resolved(source, "macs<=30%", "macs<=50%", runs=tmp_path)
    assert [report["target_met"] for report in reports] == [True, True]
    logs = [(tmp_path / f"tiny-macs-{share}pct-refine-0" / "log.txt").read_text() for share in (30, 50)]
    assert f"{source / DIVERGENCE} is missing" in logs[0]
    assert ["measuring the divergence" in log for log in logs] == [True, False]
    assert len(read_report(tmp_path / "tiny-macs-30pct-refine-0")["resolved"]) == 2


@pytest.mark.slow
def test_the_command_prints_a_table_of_several_budgets(finished: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["resolve", str(finished), "--sweep", "macs=30%..50%:2", "--refine", "0", "--runs", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "2 budgets of one search" in done.output
    assert {folder.name for folder in tmp_path.iterdir()} == {"tiny-macs-30pct-refine-0", "tiny-macs-50pct-refine-0"}


def test_what_has_no_tables_is_refused(finished: Path, tmp_path: Path) -> None:
    budgets = parse_budgets(["macs<=30%"])
    with pytest.raises(SecateursError, match=r"config\.yaml"):
        resolutions(tmp_path, budgets)
    with pytest.raises(SecateursError, match="one of 1-search"):
        resolutions(finished, budgets, stage="0-search")
    (tmp_path / "trained").mkdir()
    config = (finished / "config.yaml").read_text()
    (tmp_path / "trained" / "config.yaml").write_text(config[: config.index("- search:")])
    with pytest.raises(SecateursError, match="without a search"):
        resolutions(tmp_path / "trained", budgets)


def test_a_folder_of_somebody_else_runs_no_code_without_a_word(finished: Path, tmp_path: Path) -> None:
    source = copy(finished, tmp_path)
    config = source / "config.yaml"
    config.write_text(config.read_text().replace("spaces.networks.digits_cnn", "theirs.nets.net"))
    with pytest.raises(SecateursError, match="theirs"):
        resolutions(source, parse_budgets(["macs<=30%"]))


def test_a_budget_out_of_reach_is_refused_before_anything_is_written(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(SecateursError, match="out of reach|smallest network"):
        resolved(finished, "macs<=0.01%", runs=tmp_path / "runs")
    assert not (tmp_path / "runs" / "tiny-macs-0.01pct-refine-0").exists()
