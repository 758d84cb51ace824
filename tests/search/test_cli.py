from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import search.pipeline.repeat
from search.cli import app
from search.output.endings import UnexpectedError
from search.report.summary import show_summary
from spaces.errors import SecateursError
from tests.paths import REPOSITORY
from tests.search.report.report_sample import sample, write_run

QUICKSTART = str(REPOSITORY / "configs" / "quickstart.yaml")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )


def test_help_answers_without_loading_what_is_heavy() -> None:
    start = time.perf_counter()
    done = python("--help")
    assert done.returncode == 0
    assert all(
        command in done.stdout
        for command in ("run", "resolve", "check", "inspect", "report", "compare", "dashboard", "fuse", "list")
    )
    assert time.perf_counter() - start < 10
    heavy = ("torch", "optuna", "deap", "pydantic", "matplotlib")
    code = f"import sys, search.cli, search.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mistake_is_told_without_a_traceback_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nsed: 3\n")
    done = python("run", str(tmp_path / "bad.yaml"), "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "3 errors" in done.stderr
    assert "line 2, sed: unknown key; did you mean 'seed'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_usage_errors_end_with_2() -> None:
    assert invoke("runn").exit_code == 2
    assert invoke("dashboard", "nowhere", "--port", "0").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("report", "nowhere"), "has no report.json"),
        (("dashboard", "nowhere"), "has no study.journal"),
        (("check", "nowhere.yaml"), "there is no such file"),
        (("check", QUICKSTART, "stages.search.target.macs=<= 0.1%"), "the smallest network in this space has"),
        (("check", QUICKSTART, "stages.search.target.macs=0.5"), 'a share of the whole is written "<= 50%"'),
        (("check", QUICKSTART, "stages.search.space=bit_width"), "in this space lowers macs; set a target on"),
        (("check", QUICKSTART, "stages.search.space.round_to=64"), "no choice in any of the 4 open groups, of 64 channels at"),
        (("check", QUICKSTART, "stages.search.target.macs=<= 1e9"), "within <= 1000000000.0"),
        (("check", QUICKSTART, "stages.search.evaluate=[accuracy, cost: {kv_cache: true}]"), "has no key-value cache"),
        (("check", QUICKSTART, "stages.train.batch_size=5000"), "expected at most the 1047 training samples"),
        (
            ("check", QUICKSTART, "stages.train.train_only=[featurs]"),
            "stages.0.train: the name pattern 'featurs' matches no parameter",
        ),
        (("check", QUICKSTART, "task.model.arguments={in_channels: 3}"), "forward pass"),
        (("check", QUICKSTART, "task.model.arguments.classes=7"), "classes"),
    ],
)
def test_what_cannot_work_is_explained(arguments: tuple[str, ...], expected: str) -> None:
    result = invoke(*arguments)
    assert isinstance(result.exception, SecateursError), result.output
    assert expected in str(result.exception)


def test_check_says_what_it_found() -> None:
    result = invoke("check", QUICKSTART)
    assert result.exit_code == 0, result.exception
    assert "data: 1047 train, 300 search, 450 test" in result.output
    assert "outputs of shape (2, 10)" in result.output
    assert "macs <= 40% is within reach" in result.output
    assert result.output.endswith("ok\n")
    assert "estimate for this machine as busy as now: " in result.output


def test_inspect_shows_groups_what_is_frozen_and_costs() -> None:
    result = invoke("inspect", QUICKSTART)
    assert result.exit_code == 0, result.exception
    assert "network output" in result.output
    assert "MACs" in result.output
    found = json.loads(invoke("inspect", QUICKSTART, "--json").output)
    assert found["costs"]["macs"] > found["costs"]["parameters"] > 0
    assert found["costs"]["peak_activation_bytes"] > 0
    assert sum(found["module_macs"].values()) == found["costs"]["macs"]
    assert {"name", "size", "members", "macs_share", "unit"} == set(found["groups"][0])
    assert found["channels"] == sum(group["size"] for group in found["groups"])
    assert all(group["reason"] for group in found["frozen"])
    assert all(group["name"] in result.output for group in (*found["groups"], *found["frozen"]))


def test_inspect_follows_exclude() -> None:
    first = json.loads(invoke("inspect", QUICKSTART, "--json").output)["groups"][0]["name"]
    override = f"stages.search.space.exclude=['{first}']"
    found = json.loads(invoke("inspect", QUICKSTART, "--json", override).output)
    assert first not in [group["name"] for group in found["groups"]]
    assert "exclude" in next(group["reason"] for group in found["frozen"] if group["name"] == first)


def test_list_names_everything_registered() -> None:
    output = invoke("list").output
    for name in ("channel_mask", "scaling_factor", "accuracy", "fashion_mnist", "genetic", "serial", "retrain"):
        assert name in output


def test_report_renders_anew(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {**sample(trials=30), "searches": [], "histories": [], "layers": [], "baselines": {}})
    result = invoke("report", str(folder))
    assert result.exit_code == 0, result.exception
    assert (folder / "report.html").exists()


def test_run_ends_with_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: Any, folder: Path, console: Any, earlier: Any) -> dict[str, Any]:
        folder.mkdir()
        (folder / "report.html").touch()
        return sample(trials=30)

    monkeypatch.setattr(search.pipeline.repeat, "run", run)
    result = invoke("run", QUICKSTART, "--runs", str(tmp_path))
    assert result.exit_code == 0, result.exception
    for text in ("93.82 %", "93.61 %", "-0.21 points", "2.51x smaller", "target macs <= 40%: met", "report.html", "best"):
        assert text in result.output


@pytest.mark.parametrize(("met", "options", "code"), [(False, ["--strict"], 3), (False, [], 0), (True, ["--strict"], 0)])
def test_a_missed_target_ends_with_3_where_that_is_asked_for(
    met: bool, options: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = {
        "macs": {"text": "<= 40%", "limit": 16_000_000, "met": met},
        "latency_ms": {"text": "<= 2", "limit": 2.0, "met": True},
    }

    def run(config: Any, folder: Path, console: Any, earlier: Any) -> dict[str, Any]:
        return {**sample(trials=30), "target_met": met, "targets": targets}

    monkeypatch.setattr(search.pipeline.repeat, "run", run)
    result = invoke("run", QUICKSTART, "--runs", str(tmp_path), *options)
    assert result.exit_code == code, result.exception
    assert ("NOT met, which ends this command with 3" in result.output) == (code == 3)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_target_is_in_the_table_in_its_unit(width: int) -> None:
    report = {
        **sample(trials=30),
        "targets": {
            "macs": {"text": "<= 40%", "limit": 16_400_000.0, "met": True},
            "latency_ms": {"text": "<= 2", "limit": 2.0, "met": False},
        },
    }
    report["reference"] |= {"latency_ms": 4.0}
    report["result"] |= {"latency_ms": 2.5}
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show_summary(report, Path("runs/x"), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= width
    words = " ".join(re.sub(r"[│┃]", " ", shown).split())
    assert words.count("NOT met") == 1
    if width == 140:
        rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
        assert "<= 16.4 M, met" in rows["MACs"]
        assert "4 ms" in rows["latency"]
        assert "2.5 ms" in rows["latency"]
        assert "<= 2 ms, NOT met" in rows["latency"]


def test_the_version_is_told() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"secateurs \d+\.\d+\.\d+\S*\n", result.output)


@pytest.mark.parametrize("written", [">= 30%", "> 30%", "< 30%", "== 30%"])
def test_a_limit_from_below_is_told_in_a_plain_word(written: str) -> None:
    result = invoke("check", QUICKSTART, f"stages.search.target.macs={written}")
    assert f'expected a limit from above, written "<= 30%"; got {written!r}' in str(result.exception)


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: Any, folder: Path, console: Any, earlier: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search.pipeline.repeat, "run", interrupted)
    result = invoke("run", QUICKSTART, "--runs", str(tmp_path))
    assert result.exit_code == 130
    assert "the same command goes on" in result.output


def test_an_unexpected_error_of_a_run_knows_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defect = RuntimeError("a defect of ours")

    def broken(config: Any, folder: Path, console: Any, earlier: Any) -> None:
        raise defect

    monkeypatch.setattr(search.pipeline.repeat, "run", broken)
    result = invoke("run", QUICKSTART, "--runs", str(tmp_path))
    assert isinstance(result.exception, UnexpectedError)
    assert result.exception.folder == tmp_path / "quickstart"
    assert result.exception.__cause__ is defect
