"""Files in the working folder shadow no library, and a configuration may still name modules in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

SHADOWS = ("matplotlib", "jinja2", "yaml", "typer", "pathlib", "__future__", "json", "torch", "search_cli")


def search(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "search", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a working folder with files that would shadow libraries, each of which leaves a mark where it is imported."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write({name!r} + ' ')\n")
    return tmp_path


@pytest.mark.slow
def test_a_report_is_written_beside_files_that_look_like_libraries(folder: Path) -> None:
    import shutil

    shutil.copytree(REPOSITORY / "tests" / "golden" / "before_the_moves", folder / "run")
    done = search(folder, "report", "run")
    assert done.returncode == 0, done.stderr
    assert not (folder / "RAN").exists()


def test_a_configuration_names_a_module_beside_it(folder: Path) -> None:
    (folder / "mine.py").write_text("from spaces.networks import digits_cnn\ndef net(): return digits_cnn(width=4)\n")
    (folder / "c.yaml").write_text(
        "name: c\ntask:\n  model: {factory: mine.net}\n  data: {name: digits, search_size: 100}\n"
        "stages:\n- train: {epochs: 1}\n"
    )
    done = search(folder, "check", "c.yaml", "--no-model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder / "RAN").exists()
