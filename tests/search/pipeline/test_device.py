"""A device that is not there is refused before a run folder is touched, whatever the folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.config import load
from search.pipeline import run
from spaces.errors import SecateursError

CONFIG = """\
name: r
task: {model: {factory: spaces.networks.digits_cnn}, data: {name: digits, search_size: 100}}
stages: [train: {epochs: 1}]
"""


@pytest.mark.parametrize("device", ["mps", "cuda:99", "xpu"])
def test_a_run_that_was_begun_is_left_as_it_is(device: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "c.yaml", tmp_path / "r"
    path.write_text(CONFIG)
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    with pytest.raises(SecateursError, match=f"execution.device: {device} is not there"):
        run(load(path, [f"execution.device={device}"]), folder)
    assert [entry.name for entry in folder.iterdir()] == ["config.yaml"]
    assert (folder / "config.yaml").read_text() == CONFIG
