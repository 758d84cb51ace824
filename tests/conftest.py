"""The environment of test processes.

One torch thread each: two threads per core slow each other down by far more than a factor of two.
"""

import os
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


@pytest.fixture(scope="session", autouse=True)
def own_state_folder() -> Iterator[None]:
    """Keep notes on runs and tracebacks of tests out of the account's own folder."""
    before = os.environ.get("XDG_STATE_HOME")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["XDG_STATE_HOME"] = str(Path(folder))
        yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before
