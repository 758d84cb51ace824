"""What a small installation lacks is named, all at once, with the command."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from search.config import load
from search.config.extras import EXTRAS, MissingExtraError, is_installed, require_extra, require_extras
from search.report.page import render, render_where_installed
from tests.paths import REPOSITORY

BARE = """
name: bare
task: {{model: {{factory: spaces.networks.digits_cnn}}, data: {data}}}
{rest}
stages:
  - search:
      space: channel_mask
      algorithm: {{name: random, evaluations: 2}}
      evaluate: [accuracy, cost{evaluator}]
      objectives: {{top1: maximize}}
  - export: {{formats: [{formats}]}}
"""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the modules of all extras away."""
    for modules in EXTRAS.values():
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)


def checked(folder: Path, data: str = "digits", rest: str = "", evaluator: str = "", formats: str = "torch_export") -> None:
    path = folder / "config.yaml"
    path.write_text(BARE.format(data=data, rest=rest, evaluator=evaluator, formats=formats))
    require_extras(load(path).canonical())


def test_the_extras_are_those_of_the_package_and_all_is_their_sum() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) == {*EXTRAS, "all"}
    (everything,) = extras["all"]
    assert set(everything.removeprefix("secateurs[").removesuffix("]").split(",")) == set(EXTRAS)


def test_all_that_is_missing_is_named_at_once_with_one_command(tmp_path: Path, bare: None) -> None:
    with pytest.raises(MissingExtraError) as caught:
        checked(
            tmp_path,
            rest="execution: {executor: ray}\nstorage: postgresql+psycopg://u:hunter2@h/d",
            evaluator=", {latency: {mode: table}}",
            formats="onnx, torch_export",
        )
    said = str(caught.value)
    assert "digits, for task.data.name: digits" in said
    assert "ray, for execution.executor: ray" in said
    assert "postgresql, for storage: postgresql+psycopg" in said
    assert "onnx, for stages.0.search.evaluate.2.backend: onnxruntime, stages.1.export.formats.0: onnx" in said
    assert 'pip install "secateurs[digits,onnx,postgresql,ray]"' in said
    assert "hunter2" not in said


def test_what_is_not_needed_is_not_asked_for(tmp_path: Path, bare: None) -> None:
    with pytest.raises(MissingExtraError) as caught:
        checked(tmp_path, rest="storage: sqlite:///study.db", evaluator=", {latency: {backend: eager}}")
    assert 'pip install "secateurs[digits]"' in str(caught.value)


def test_a_whole_installation_lacks_nothing(tmp_path: Path) -> None:
    checked(tmp_path, evaluator=", latency", formats="onnx")


def test_without_the_report_extra_the_run_says_so_in_one_line(tmp_path: Path, bare: None) -> None:
    said: list[str] = []
    render_where_installed(tmp_path, said.append)
    assert len(said) == 1
    assert 'pip install "secateurs[report]"' in said[0]
    assert str(tmp_path) in said[0]
    with pytest.raises(MissingExtraError, match=r"report\.html needs the extra `report`.*pip install"):
        render(tmp_path)


def test_one_missing_module_makes_an_extra_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed("onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert not is_installed("onnx")
    with pytest.raises(MissingExtraError, match=r'^fuse needs the extra `onnx`.*pip install "secateurs\[onnx\]"'):
        require_extra("onnx", "fuse")


def test_processes_of_torchrun_need_no_ray(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"execution": {"executor": "serial", "training_workers": 12}}
    with pytest.raises(MissingExtraError, match=r"ray, for execution.training_workers: 12"):
        require_extras(config)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    require_extras(config)
