"""config.yaml and environment.json: each is made again where the other and the command agree, else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.run.run_folder import RunFolder, RunFolderError
from search.run.steps import StageStep, start_key

CONFIG: dict[str, Any] = {"name": "r", "seed": 0, "execution": {"workers": 1}, "stages": [{"train": {"epochs": 1}}]}
DAMAGES = {"empty": b"", "zeros": bytes(300), "binary": b"\xff\xfe" * 50, "gone": None}


def begun(folder: Path) -> Path:
    """Return a run folder with a begun run in it."""
    with RunFolder(folder) as opened:
        opened.adopt(CONFIG, "abc")
    StageStep(folder / "checkpoints" / "start", start_key(0, "abc")).open()
    return folder


def hurt(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


def adopted(folder: Path, config: dict[str, Any], fingerprint: str) -> tuple[str, list[str]]:
    """Return the identity of a resumed run, and what was told of damage."""
    told: list[str] = []
    with RunFolder(folder) as opened:
        assert opened.resumed
        opened.adopt(config, fingerprint, told.append)
        return opened.run_id, told


@pytest.mark.parametrize("way", DAMAGES)
@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_one_of_the_two_is_made_again_and_told(tmp_path: Path, name: str, way: str) -> None:
    folder = begun(tmp_path / "r")
    before = adopted(folder, CONFIG, "abc")[0]
    hurt(folder / name, DAMAGES[way])
    identity, told = adopted(folder, {**CONFIG, "execution": {"workers": 2}}, "abc")
    (line,) = told
    assert name in line
    assert "made again" in line
    assert (identity == before) == (name == "config.yaml")
    assert adopted(folder, CONFIG, "abc") == (identity, [])


@pytest.mark.parametrize("way", DAMAGES)
def test_a_lost_configuration_is_not_replaced_by_another(tmp_path: Path, way: str) -> None:
    folder = begun(tmp_path / "r")
    hurt(folder / "config.yaml", DAMAGES[way])
    with pytest.raises(RunFolderError, match=r"config\.yaml.*is not the one that environment\.json has the hash of.*costs all"):
        adopted(folder, {**CONFIG, "seed": 1}, "abc")


@pytest.mark.parametrize(
    ("config", "fingerprint"), [(CONFIG, "xyz"), ({**CONFIG, "storage": "postgresql+psycopg://u:p@host/name"}, "abc")]
)
def test_a_lost_environment_is_not_replaced_by_that_of_other_data_or_of_a_database(
    tmp_path: Path, config: dict[str, Any], fingerprint: str
) -> None:
    with RunFolder(tmp_path / "r") as opened:
        opened.adopt(config, "abc")
    StageStep(tmp_path / "r" / "checkpoints" / "start", start_key(0, "abc")).open()
    (tmp_path / "r" / "environment.json").write_bytes(b"{")
    with pytest.raises(RunFolderError, match=r"environment\.json.*nothing else tells.*another name"):
        adopted(tmp_path / "r", config, fingerprint)


def test_a_flipped_bit_of_the_configuration_is_no_other_configuration(tmp_path: Path) -> None:
    folder = begun(tmp_path / "r")
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 3"))
    (line,) = adopted(folder, CONFIG, "abc")[1]
    assert "config.yaml is damaged: its content does not match the digest in it" in line
    with pytest.raises(RunFolderError, match=r"epochs was 1 and is now 3"):
        adopted(folder, {**CONFIG, "stages": [{"train": {"epochs": 3}}]}, "abc")
