from __future__ import annotations

import io
import json
import socket
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.dashboard import application, serve
from spaces.errors import SecateursError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    study = optuna.create_study(storage=storage, study_name="quickstart/2-search", direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=0.9, params={}, distributions={}))
    return tmp_path


def request(app: Any, method: str, path: str) -> tuple[str, bytes]:
    found: list[str] = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(b"{}"),
        "wsgi.errors": io.StringIO(),
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "2",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = b"".join(app(environ, lambda status, headers, info=None: found.append(status)))
    return found[0], body


def test_it_shows_the_studies_and_leaves_the_journal_as_it_is(folder: Path) -> None:
    before = (folder / "study.journal").read_bytes()
    app = application(folder)
    status, body = request(app, "GET", "/api/studies")
    assert status.startswith("200")
    assert [study["study_name"] for study in json.loads(body)["study_summaries"]] == ["quickstart/2-search"]
    status, _ = request(app, "DELETE", "/api/studies/0")
    assert not status.startswith("2")
    assert (folder / "study.journal").read_bytes() == before


def test_a_port_in_use_is_explained(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SecateursError, match="choose another --port"):
            serve(folder, "127.0.0.1", taken.getsockname()[1], announce=lambda text: None)
