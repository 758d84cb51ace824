"""Retraining never hands on a network that is clearly worse than the one that came in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from search.config import load
from search.export import load as load_best
from search.pipeline import run
from tests.integration.stage_pieces import HEAD, PIECES

pytestmark = pytest.mark.usefixtures("no_pictures_in_module")

TRAIN = "  - train: {epochs: 8, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}\n"


def compressed(folder: Path, *training: str) -> dict[str, Any]:
    stages = "".join(f"  - retrain: {{{settings}, batch_size: 50}}\n" for settings in training)
    folder.mkdir()
    (folder / "tiny.yaml").write_text(f"{HEAD}{TRAIN}  - {PIECES['channels']}\n{stages}")
    return run(load(folder / "tiny.yaml"), folder / "run")


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in load_best(folder / "run").state_dict().values()])


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the report of a run without a retraining."""
    folder = tmp_path_factory.mktemp("retrain") / "untrained"
    return folder, compressed(folder)


def test_a_retraining_that_ruins_the_network_is_undone_and_told(tmp_path: Path, untrained: tuple[Path, dict[str, Any]]) -> None:
    report = compressed(tmp_path / "ruined", "epochs: 1, optimizer: {name: sgd, lr: 30.0}")
    without, expected = untrained
    (remark,) = report["remarks"]
    assert remark.startswith("2-retrain: retraining made the network worse (top1 on the search split 0.")
    assert remark in (tmp_path / "ruined" / "run" / "report.html").read_text()
    assert remark in (tmp_path / "ruined" / "run" / "log.txt").read_text()
    assert report["result"]["top1"] == expected["result"]["top1"]
    assert torch.equal(weights(tmp_path / "ruined"), weights(without))


def test_a_retraining_that_does_no_harm_is_kept_without_a_word(tmp_path: Path, untrained: tuple[Path, dict[str, Any]]) -> None:
    report = compressed(tmp_path / "trained", "epochs: 1, optimizer: {name: sgd, lr: 0.001}")
    without, expected = untrained
    assert report["remarks"] == []
    assert report["result"]["macs"] == expected["result"]["macs"]
    assert not torch.equal(weights(tmp_path / "trained"), weights(without))
