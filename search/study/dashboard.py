"""Serve the Optuna dashboard on the studies of a run, read-only, during the run and after it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.config.extras import require_extra
from search.config.storage_url import StorageUrl
from search.output.log_records import PACKAGE
from search.run.run_records import read_config
from search.study.known_storage import require_consent
from search.study.storage import JOURNAL
from search.study.trial_note import NOTE
from search.study.web_guard import Application, guarded_application, refuse
from spaces.errors import SecateursError
from spaces.files.reading import FileError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_STUDY = re.compile(r"/api/studies/[0-9]+")
_LOOKING = ("GET", "HEAD", "OPTIONS")


def find_storage(folder: Path) -> Path | StorageUrl:
    """Return the storage of a run's studies: the path of its journal, or the URL in its configuration.

    Raises:
        SecateursError: There is neither.
    """
    config, journal = folder / "config.yaml", folder / JOURNAL
    storage = _storage_in(config) if config.is_file() else None
    if storage is not None:
        return StorageUrl(storage)
    if not journal.is_file():
        there = "it has run no search yet" if config.exists() else "it is no run folder"
        raise SecateursError(f"{folder} has no {JOURNAL}: {there}; expected the folder of a run, such as runs/NAME")
    return journal


def _storage_in(config: Path) -> Any:
    try:
        return read_config(config).get("storage")
    except FileError as error:
        raise SecateursError(f"{error}; the run makes it again when it goes on, and --storage URL shows a database") from None


def open_to_look(where: Path | StorageUrl, say: Callable[[str], None] = PACKAGE.warning) -> BaseStorage:
    """Open a run's storage for reading while the run goes on writing it.

    Args:
        where: The storage.
        say: Told of a journal whose last record is torn.

    Raises:
        StorageError: The database can't be opened.
        FileError: The journal is damaged.
    """
    if isinstance(where, Path):
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        from search.study.journal import look_for_damage

        try:
            if torn := look_for_damage(where):
                say(torn)
            return JournalStorage(JournalFileBackend(str(where)))
        except FileError:
            raise
        except Exception as error:
            raise SecateursError(
                f"{where} is damaged and can't be shown ({type(error).__name__}: {error}); the run repairs it when it goes on"
            ) from error
    from search.study.database import look_into

    return look_into(where)


def application(where: Path | StorageUrl) -> Application:
    """Return the dashboard as a read-only WSGI application, with a note beside each trial.

    Raises:
        StorageError: The database can't be opened.
    """
    require_extra("dashboard", "the dashboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna
        from optuna_dashboard import wsgi

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        inner: Application = wsgi(open_to_look(where))

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD", "GET") not in _LOOKING:
            reason = "the dashboard of a run only shows; its studies are the run's record"
            return refuse(start_response, "403 Forbidden", reason)
        if not _STUDY.fullmatch(environ.get("PATH_INFO", "").rstrip("/")):
            return inner(environ, start_response)
        return _with_notes(inner, environ, start_response)

    return answer


def _with_notes(inner: Application, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with a study whose trials have their recorded note where the dashboard shows notes.

    Optuna's dashboard keeps notes in the study and looks through all of them for each trial, which takes minutes for ten
    thousand trials; ours are recorded with the trial.
    """
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], details: Any = None) -> None:
        started.append((status, headers))

    body = b"".join(inner(environ, start))
    status, headers = started[0]
    if status.startswith("200"):
        study = json.loads(body)
        for trial in (*study["trials"], *study["best_trials"]):
            notes = [entry["value"] for entry in trial["user_attrs"] if entry["key"] == NOTE]
            if notes:
                trial["note"] = {"version": 1, "body": notes[0]}
                trial["user_attrs"] = [entry for entry in trial["user_attrs"] if entry["key"] != NOTE]
        study["union_user_attrs"] = [entry for entry in study["union_user_attrs"] if entry["key"] != NOTE]
        body = json.dumps(study, separators=(",", ":")).encode()
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        headers.append(("Content-Length", str(len(body))))
    start_response(status, headers)
    return [body]


def serve(
    folder: Path,
    host: str,
    port: int,
    announce: Callable[[str], None],
    storage: str | None = None,
    allow_hosts: Sequence[str] = (),
    ask: Callable[[str], bool] | None = None,
) -> None:
    """Serve the dashboard until interrupted.

    Args:
        folder: The run folder.
        host: Address to listen on.
        port: Port to listen on.
        announce: Told where to look.
        storage: URL of the run's database, in place of the one in its configuration, whose password is not saved.
        allow_hosts: Names, beside ``localhost`` and ``host``, under which browsers may call the dashboard.
        ask: Asks a person whether to open the storage that a folder of somebody else names; None where nobody is there.

    Raises:
        SecateursError: The run has no studies, its database can't or may not be opened, or the address cannot be listened on.
    """
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Quiet(WSGIRequestHandler):
        """Request handler that writes no line for each request."""

        def log_message(self, format: str, *args: Any) -> None:
            """Write nothing."""

    class Server(ThreadingMixIn, WSGIServer):
        """Server with a thread per request: computing the importance of parameters blocks no other request."""

        daemon_threads = True

    where = find_storage(folder) if storage is None else StorageUrl(storage)
    if storage is None and isinstance(where, StorageUrl):
        require_consent(folder, where, ask)
    app = guarded_application(application(where), [host, *allow_hosts])
    try:
        server = make_server(host, port, app, server_class=Server, handler_class=Quiet)
    except OSError as error:
        raise SecateursError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    with server:
        announce(f"dashboard of {folder}: http://{host}:{server.server_port}/   (Ctrl-C ends it)")
        server.serve_forever()
