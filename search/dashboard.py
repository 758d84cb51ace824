"""The Optuna dashboard on the studies of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spaces.errors import SecateursError


def find_journal(folder: Path) -> Path:
    """Return the journal of a run's studies.

    Raises:
        SecateursError: There is none.
    """
    journal = folder / "study.journal"
    if not journal.is_file():
        there = "it has run no search yet" if (folder / "config.yaml").exists() else "it is no run folder"
        raise SecateursError(f"{folder} has no study.journal: {there}; expected the folder of a run, such as runs/NAME")
    return journal


def application(folder: Path) -> Any:
    """Return the dashboard of a run as a WSGI application. The journal is only read: its one writer is the run.

    Raises:
        SecateursError: The run has no journal.
    """
    journal = find_journal(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna_dashboard import wsgi

        class ReadOnly(JournalFileBackend):
            """The journal of a run, which the dashboard cannot change."""

            def append_logs(self, logs: list[dict[str, Any]]) -> None:
                raise SecateursError("the dashboard of a run only shows; its studies cannot be changed there")

        return wsgi(JournalStorage(ReadOnly(str(journal))))


def serve(folder: Path, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        SecateursError: The run has no journal, or the address cannot be listened on.
    """
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        """Writes no line for each request."""

        def log_message(self, format: str, *args: Any) -> None:
            pass

    app = application(folder)
    try:
        server = make_server(host, port, app, handler_class=Quiet)
    except OSError as error:
        raise SecateursError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    with server:
        announce(f"dashboard of {folder}: http://{host}:{server.server_port}/   (Ctrl-C ends it)")
        server.serve_forever()
