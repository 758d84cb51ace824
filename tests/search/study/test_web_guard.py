"""Requests that other people's pages send to the dashboard, and storages that other people's folders name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from search.config.document import to_yaml
from search.config.storage_url import StorageError, StorageUrl
from search.study.dashboard import open_to_look, serve
from search.study.known_storage import remember, require_consent
from search.study.web_guard import guarded_application
from spaces.errors import SecateursError


def shows(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    assert environ["HTTP_ACCEPT_ENCODING"]
    if environ.get("QUERY_STRING"):
        raise ValueError("odd")
    start_response("500 Internal Server Error" if environ["PATH_INFO"] == "/odd" else "200 OK", [])
    return [b"shown"]


def status(path: str = "/", hosts: tuple[str, ...] = ("box",), **environ: str) -> str:
    found: list[str] = []
    app = guarded_application(shows, hosts)
    body = b"".join(app({"PATH_INFO": path, **environ}, lambda status, headers, details=None: found.append(status)))
    assert body == b"shown" or json.loads(body)["reason"]
    return found[0][:3]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "192.168.0.9", "box:80", "::1"])
def test_hosts_of_this_machine_are_answered(host: str) -> None:
    assert status(HTTP_HOST=host) == "200"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "boxer", "a@localhost"]
)
def test_another_host_is_refused(host: str) -> None:
    assert status(HTTP_HOST=host) == "403"


def test_a_change_from_elsewhere_is_refused() -> None:
    post = {"HTTP_HOST": "localhost:1", "REQUEST_METHOD": "POST"}
    assert status(**post, HTTP_ORIGIN="http://evil.example") == "403"
    assert status(**post, HTTP_ORIGIN="null") == "403"
    assert status(**post, HTTP_ORIGIN="http://localhost:1") == "200"


def test_a_failure_is_an_answer() -> None:
    assert status("/odd") == "400"
    assert status(QUERY_STRING="a=b") == "400"


@pytest.mark.parametrize("content", [b"{", b"null\n", b"\xff\n", b'{"op_code": 99, "worker_id": "x"}\n{}\n', b"[1]\n{}\n"])
def test_a_damaged_journal_is_named_or_shown(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(content)
    with contextlib.suppress(SecateursError):
        open_to_look(path)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run folder that somebody else made, which names a database of theirs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SECRET", "Hunter2")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "environment.json").write_text(json.dumps({"run_id": "1"}))
    return folder


URL = "postgresql+psycopg://u:${SECRET}@evil.example/${SECRET}"


def test_a_foreign_storage_is_not_opened_without_a_word(foreign: Path) -> None:
    (foreign / "config.yaml").write_text(to_yaml({"storage": URL}))
    with pytest.raises(StorageError, match=r"evil\.example.*--storage") as refused:
        serve(foreign, "127.0.0.1", 1, announce=print)
    assert "Hunter2" not in str(refused.value)


def test_a_person_is_shown_the_host_and_decides(foreign: Path) -> None:
    asked: list[str] = []
    require_consent(foreign, StorageUrl(URL), lambda question: not asked.append(question))
    assert "evil.example" in asked[0]
    assert "Hunter2" not in asked[0]
    with pytest.raises(StorageError):
        require_consent(foreign, StorageUrl(URL), lambda question: False)


def test_a_folder_of_this_account_is_known(foreign: Path) -> None:
    remember("1", StorageUrl(URL))
    require_consent(foreign, StorageUrl(URL), None)
    for other in (URL.replace("evil", "other"), "sqlite:////tmp/other.db"):
        with pytest.raises(StorageError):
            require_consent(foreign, StorageUrl(other), None)


def test_a_file_in_the_folder_is_opened_and_one_outside_asked_about(foreign: Path) -> None:
    require_consent(foreign, StorageUrl(f"sqlite:///{foreign}/study.db"), None)
    with pytest.raises(StorageError, match="the file"):
        require_consent(foreign, StorageUrl(f"sqlite:///{foreign}/../study.db"), None)
