"""Runs that several files of tests only read: made once per session, whichever worker asks first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from search.config import load
from search.pipeline import run
from tests.integration.tiny_pipeline import write_config


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Path]:
    """Return a function from the text of a configuration named ``tiny`` to the folder of its finished run, to be read only.

    The reports of these runs have no pictures.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def finished(text: str) -> Path:
        place = shared / f"recorded-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        with FileLock(f"{place}.lock"):
            place.mkdir(exist_ok=True)
            folder = place / "runs" / "tiny"
            if not (folder / "report.html").exists():
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("search.report.figures.pictures.draw", lambda report: [])
                    run(load(write_config(place, text)), folder)
        return folder

    return finished
