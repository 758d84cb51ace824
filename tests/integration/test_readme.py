"""README.md is short, and what it and docs/python.md show in Python and YAML runs as it stands there."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateurs
from search import recipes
from search.config.document import ConfigError
from search.config.loading import load
from spaces.networks import digits_cnn
from tests.paths import REPOSITORY

README, PYTHON = REPOSITORY / "README.md", REPOSITORY / "docs" / "python.md"


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_it_is_short_and_the_reader_s_own_network_comes_early() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert lines.index("## Your own network and data") < 45


@pytest.mark.slow
def test_the_objects_one_at_a_time() -> None:
    (block,) = [block for block in blocks(PYTHON, "python") if "hessian_traces" in block]
    found: dict[str, object] = {}
    exec(compile(block, str(PYTHON), "exec"), found)
    trials = found["trials"]
    assert isinstance(trials, list)
    assert len(trials) >= 16
    assert any(trial.metrics["macs"] <= found["half"] for trial in trials)
    assert set(found["traces"].by_name) == set(found["weights"])


@pytest.mark.parametrize("document", [README, PYTHON], ids=lambda path: path.name)
def test_every_name_that_it_imports_is_there(document: Path) -> None:
    for block in blocks(document, "python"):
        imports = [line for line in block.splitlines() if re.match(r"(from|import) ", line)]
        exec("\n".join(imports), {})


def test_the_configuration_for_a_network_of_one_s_own_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks(README, "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no file"):
        load("mine.yaml")
    (tmp_path / "mobilenet.safetensors").touch()
    assert [stage.name for stage in load("mine.yaml").stages] == ["search", "retrain", "export"]


@pytest.mark.usefixtures("no_pictures")
def test_a_network_and_loaders_of_one_s_own_and_then_the_result_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 1, 8, 8, generator=generator)
    loader = DataLoader(TensorDataset(images, torch.arange(20) % 10), batch_size=10)
    given = nn.Sequential(digits_cnn(width=4), nn.Identity()).eval()
    monkeypatch.setitem(recipes.EFFORTS, "normal", recipes.Extent(population=4, generations=1, evolution=1))
    monkeypatch.setattr(secateurs, "compress", functools.partial(secateurs.compress, quiet=True))
    monkeypatch.chdir(tmp_path)
    shown, read = blocks(README, "python")
    names: dict[str, Any] = {"model": given, "train_loader": loader, "search_loader": loader, "test_loader": loader}
    exec(shown, names)
    lines, found = capsys.readouterr().out.splitlines(), names["found"]
    assert max(map(len, lines)) <= 100
    assert any("top-1 accuracy" in line for line in lines)
    assert any("MACs" in line and line.rstrip(" │").endswith(", met") for line in lines)
    assert lines[-2:] == ["target macs <= 40%: met", "folder: runs/mine"]
    assert list(found.report["baselines"]) == ["uniform", "global_magnitude"]
    page = found._repr_html_()
    share = found.report["result"]["macs"] / found.report["reference"]["macs"]
    assert f"{share * 100:.1f} % left" in page
    assert page.count("<tr>") == 5
    with monkeypatch.context() as patched:
        trusted = functools.partial(secateurs.load, "runs/mine", lambda: given)
        patched.setattr(secateurs, "load", lambda folder: trusted())
        exec(read.replace("runs/quickstart", "runs/mine"), {})
    assert float(capsys.readouterr().out.strip().removeprefix("tensor(").split(",")[0].rstrip(")")) < 1e-4


def test_inputs_without_labels_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searching = {
        "space": "channel_mask",
        "algorithm": {"name": "random", "evaluations": 2},
        "evaluate": [{"divergence": {"samples": 32, "pool": 64, "batch_norm_batches": 1}}, "cost"],
        "objectives": {"divergence": "minimize"},
        "reconstruct": {"images": 32},
    }
    whole = secateurs.compress

    def short(model: nn.Module, *, target: Mapping[str, str], **given: Any) -> Any:
        return whole(model, **given, target={}, stages=[{"search": {**searching, "target": dict(target)}}], quiet=True)

    monkeypatch.setattr(secateurs, "compress", short)
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(PYTHON, "python") if "calibration=" in block]
    images = torch.randn(140, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    exec(block, {"model": digits_cnn(width=4).eval(), "loader": DataLoader(images, batch_size=10)})
    agreement, divergence, top1 = capsys.readouterr().out.split()[-3:]
    assert 0.0 <= float(agreement) <= 1.0
    assert float(divergence) > 0.0
    assert top1 == "None"
