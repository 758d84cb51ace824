"""The environment of test processes.

One torch thread each: two threads per core slow each other down by far more than a factor of two.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Under `uv run` Ray would send the folder to every worker and install anew there. It reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Tests that import ray before a cluster of their own is started: it listens on the loopback interface alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

# Where Python is told to write no bytecode, each of the hundreds of processes that tests start would compile PyTorch anew: four
# seconds each. The workers of a run and what they start share a folder out of the way instead.
if sys.dont_write_bytecode:
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

DRAW = "search.report.figures.pictures.draw"


@pytest.fixture(scope="session", autouse=True)
def own_folders() -> Iterator[None]:
    """Keep notes on runs, tracebacks, latencies and listings of tests out of the account's own folders."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(Path(folder)))
        patch.setenv("SECATEURS_CACHE", str(Path(folder, "cache")))
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures of reports, which take seconds: for tests that look at none."""
    monkeypatch.setattr(DRAW, lambda report: [])


@pytest.fixture(scope="module")
def no_pictures_in_module() -> Iterator[None]:
    """Leave out the pictures of reports in a whole module, in the runs of its fixtures too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DRAW, lambda report: [])
        yield
