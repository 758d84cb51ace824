"""What a run leaves: its report, its record, and a network that a new process can load."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from evaluators.tasks.measure import measure
from search.config import load
from search.export import load as load_best
from search.pipeline import run
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import CONFIG, read_report, write_config
from tests.paths import REPOSITORY

ROW = {"top1", "loss", "metrics", "parameters", "macs", "size_bytes", "bit_operations", "latency_ms"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a finished run's folder and its report."""
    folder = tmp_path_factory.mktemp("runs")
    config = write_config(folder, CONFIG + "  - export: {formats: [onnx, torch_export]}\n")
    report = run(load(config), folder / "tiny", None)
    return folder / "tiny", report


def test_the_report_keeps_the_contract(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    assert read_report(folder) == report
    assert report["name"] == "tiny"
    assert report["seed"] == 3
    assert report["target_met"] is True
    assert report["targets"]["macs"] == {
        "text": "<= 60%",
        "limit": pytest.approx(0.6 * report["reference"]["macs"]),
        "value": report["result"]["macs"],
        "met": True,
    }
    rows = [report["reference"], report["result"], *report["baselines"].values()]
    assert set(report["baselines"]) == {"uniform", "random", "dense_same_training"}
    assert all(set(row) >= ROW for row in rows)
    assert report["result"]["macs"] <= 0.6 * report["reference"]["macs"]
    assert report["baselines"]["dense_same_training"]["macs"] == report["reference"]["macs"]
    for name in ("uniform", "random"):
        assert 0.4 * report["reference"]["macs"] < report["baselines"][name]["macs"] <= 0.6 * report["reference"]["macs"]
    assert report["equivalence_max_abs_error"] < 1e-4
    assert [stage["name"] for stage in report["stages"]] == ["train", "sparse_training", "search", "retrain", "export"]
    assert report["pareto"] == report["searches"][-1]["pareto"]
    assert all(set(point) == {"trial", "fingerprint", "top1", "macs"} for point in report["pareto"])
    assert report["searches"][0]["chosen"] in {point["trial"] for point in report["pareto"]}
    assert [history["stage"] for history in report["histories"]] == ["0-train", "1-sparse_training", "3-retrain"]
    assert {history["variant"] for history in report["baseline_histories"]} == set(report["baselines"])
    dense = [history for history in report["baseline_histories"] if history["variant"] == "dense_same_training"]
    assert [history["stage"] for history in dense] == ["1-sparse_training", "3-retrain"]
    assert all(layer["kept"] <= layer["channels"] for layer in report["layers"])


def test_the_run_folder_keeps_the_contract(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    names = {entry.name for entry in folder.iterdir()}
    assert names >= {"config.yaml", "environment.json", "log.txt", "study.journal", "checkpoints", "best", "report.json"}
    assert {entry.name for entry in (folder / "best").iterdir()} == {
        "weights.safetensors",
        "architecture.json",
        "model.onnx",
        "model.pt2",
    }
    assert load(folder / "config.yaml").canonical() == load(folder.parent / "tiny.yaml").canonical()
    assert not list(folder.rglob("*.pkl"))
    assert not list(folder.rglob("*.tmp"))


def test_every_file_of_the_run_folder_is_in_docs_resume(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    patterns = [re.compile(pattern) for pattern in files_of_a_run()]
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert not [name for name in files if not any(pattern.fullmatch(name) for pattern in patterns)]
    named = {pattern.pattern for pattern in patterns for name in files if pattern.fullmatch(name)}
    assert len(named) > 15


def files_of_a_run() -> list[str]:
    """Return patterns of the paths in the first column of docs/resume.md; a folder stands for all in it."""
    text = (REPOSITORY / "docs" / "resume.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 6 and all(cell.strip() for cell in row[1:5]) for row in rows), "a row lacks writer, reader or use"
    words = {"N-STAGE": r"\d+-\w+", "N-search": r"\d+-search", "VARIANT": r"\w+", r"\*": "[^/]+"}
    patterns = []
    for path in (path for row in rows for path in re.findall(r"`([^`]+)`", row[1])):
        pattern = re.escape(path).replace(r"\-", "-")
        for word, meaning in words.items():
            pattern = pattern.replace(word, meaning)
        patterns.append(pattern + (".*" if path.endswith("/") else ""))
    return patterns


def test_the_studies_record_every_trial(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.journal")))
    study = optuna.load_study(study_name="tiny/2-search", storage=storage)
    trials = report["searches"][0]["trials"]
    assert [trial.user_attrs["fingerprint"] for trial in study.trials] == [trial["fingerprint"] for trial in trials]
    random = optuna.load_study(study_name="tiny/2-search/random", storage=storage)
    # Random search draws nothing twice, and this space has few allocations.
    assert len(trials) / 2 < len(random.trials) <= len(trials)


def test_best_is_loaded_in_a_new_process_with_the_reported_accuracy(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(1)\n"
        "import pickle\n"
        "def refuse(*_, **__): raise AssertionError('something was unpickled')\n"
        "class Refusing(pickle.Unpickler): load = refuse\n"
        "pickle.Unpickler, pickle.load, pickle.loads = Refusing, refuse, refuse\n"
        "sys.addaudithook(lambda event, _: refuse() if event == 'pickle.find_class' else None)\n"
        "from search.export import load\n"
        "model = load(sys.argv[2]); assert not model.training\n"
        "print(sum(p.numel() for p in model.parameters()))\n"
        "assert 'sklearn' not in sys.modules and 'optuna' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPOSITORY), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == report["result"]["parameters"]
    task = load(folder / "config.yaml").build_task()
    measured = measure(load_best(folder), task, "test")
    assert measured["top1"] == report["result"]["top1"]
    assert measured["loss"] == pytest.approx(report["result"]["loss"], rel=1e-6)


def test_exported_files_answer_as_the_network_does(finished: tuple[Path, dict[str, Any]]) -> None:
    import onnxruntime

    folder, _ = finished
    model, inputs = load_best(folder), torch.randn(5, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(folder / "best" / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = model(inputs).detach()
    answered = torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])
    torch.testing.assert_close(answered, expected, atol=1e-4, rtol=1e-4)
    program = torch.export.load(folder / "best" / "model.pt2")
    torch.testing.assert_close(program.module()(inputs), expected, atol=1e-4, rtol=1e-4)


def test_best_says_where_it_comes_from(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    provenance = json.loads((folder / "best" / "architecture.json").read_text())["provenance"]
    assert provenance["run"] == "tiny"
    assert provenance["seed"] == 3
    assert provenance["trial"] == report["searches"][0]["chosen"]
    assert provenance["fingerprint"] == report["searches"][0]["fingerprint"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.search.target.macs=<= 0.1%", "macs"),
        ("task.model.arguments.in_channels=3", "forward"),
        ("stages.search.space={name: channel_mask, exclude: ['*']}", "pruned|open"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SecateursError, match=message):
        run(load(write_config(tmp_path), [override]), tmp_path / "runs" / "tiny", None)
    assert not (tmp_path / "runs").exists()
