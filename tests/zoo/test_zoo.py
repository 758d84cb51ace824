"""The whole zoo: nothing crashes, slices are right, MACs are those counted. Slow, and goes on where it was ended."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

RESULTS = "SECATEURS_ZOO_RESULTS"
"""Environment variable with the path of a results file, kept from one attempt to the next."""


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_every_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = [name for name in ("timm", "transformers") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: `uv sync --group zoo`")
    results = os.environ.get(RESULTS, str(tmp_path / "zoo.jsonl"))
    with capsys.disabled():
        done = subprocess.run([sys.executable, "-m", "tests.zoo.run", results], cwd=REPOSITORY, check=False)
    assert done.returncode == 0
