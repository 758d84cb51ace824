"""The dashboard of a run: its answers, and the page that a real browser makes of them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.config.document import to_yaml
from search.config.storage_url import StorageUrl
from search.study.dashboard import application, find_storage, serve
from search.study.storage import open_journal, open_storage
from search.study.study import Study
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from spaces.errors import SecateursError
from tests.paths import REPOSITORY
from tests.search.small_space import small_problem

NAME = "quickstart/2-search"
TRIALS = 12


def trial(number: int) -> Trial:
    candidate = Candidate({"first": "1100", "second": f"{number + 1:06b}"})
    macs = float(2 + f"{number + 1:b}".count("1"))
    metrics = {"top1": 0.5 + macs / 20, "macs": macs, "size_bytes": 1_234.0}
    return Trial(number, Proposal(candidate), "complete", metrics, 0.5)


def record(storage: Any) -> None:
    study = Study(storage, NAME, small_problem(), {"macs": 10.0, "size_bytes": 2_468.0})
    for number in range(TRIALS):
        study.add(trial(number))


def with_journal(folder: Path) -> Path:
    """Make a run folder with a journal of a folder, and return it."""
    record(open_journal(folder / "study.journal"))
    (folder / "config.yaml").write_text("name: quickstart\nstorage: null\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a run folder with a journal."""
    return with_journal(tmp_path)


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


def shown(app: Any) -> dict[str, Any]:
    status, body = request(app, "GET", "/api/studies")
    assert status.startswith("200")
    (summary,) = json.loads(body)["study_summaries"]
    assert summary["study_name"] == NAME
    status, body = request(app, "GET", f"/api/studies/{summary['study_id']}")
    assert status.startswith("200")
    found: dict[str, Any] = json.loads(body)
    return found


def test_a_person_can_read_it(folder: Path) -> None:
    study = shown(application(find_storage(folder)))
    assert study["objective_names"] == ["top1", "macs"]
    assert study["directions"] == ["maximize", "minimize"]
    assert len(study["trials"]) == TRIALS
    first = study["trials"][0]
    assert {param["name"]: param["param_external_value"] for param in first["params"]} == {
        "first": "0.5",
        "second": str(1 / 6),
    }
    assert {best["number"] for best in study["best_trials"]} >= {0}
    for one in (*study["trials"], *study["best_trials"]):
        note = one["note"]["body"]
        assert one["note"]["version"] == 1
        assert "| size | 1.23 kB | 50.0 % |" in note
        assert f"fingerprint `{trial(one['number']).proposal.candidate.fingerprint}`" in note
        assert not [entry for entry in one["user_attrs"] if entry["key"] == "note"]
    assert "| MACs | 3 | 30.0 % |" in first["note"]["body"]
    assert "| target: MACs <= 6 | met |" in first["note"]["body"]


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_it_changes_nothing(folder: Path, kind: str) -> None:
    where: Any = folder / "study.journal"
    if kind == "database":
        where = StorageUrl(f"sqlite:///{folder / 'study.db'}")
        with open_storage(folder, "quickstart", where, "me") as storage:
            record(storage)
    app = application(where)
    before = shown(app)
    for method, path in (("DELETE", "/api/studies/0"), ("POST", "/api/studies"), ("PUT", "/api/studies/0/0/note")):
        status, body = request(app, method, path)
        assert status.startswith("403")
        assert "only shows" in json.loads(body)["reason"]
    assert shown(application(where)) == before
    assert len(before["trials"]) == TRIALS


def test_it_follows_a_run_that_goes_on(folder: Path) -> None:
    journal = folder / "study.journal"
    storage = application(journal)
    assert len(shown(storage)["trials"]) == TRIALS
    Study(open_journal(journal), NAME, small_problem()).add(trial(TRIALS))
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"half a rec')
    time.sleep(2.1)  # The dashboard reads a small study again after two seconds.
    assert len(shown(storage)["trials"]) == TRIALS + 1


def test_where_the_studies_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SecateursError, match=r"has no study\.journal: it is no run folder"):
        find_storage(tmp_path)
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(SecateursError, match="it has run no search yet"):
        find_storage(tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml({"storage": "postgresql://u:***@h/d"}))
    where = find_storage(tmp_path)
    with pytest.raises(SecateursError, match=r"was hidden when the configuration was saved; write it as \$\{NAME\}"):
        application(where)
    missing = StorageUrl(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(SecateursError, match="has no studies"):
        application(missing)
    assert not (tmp_path / "none.db").exists()


def test_a_port_in_use_is_explained(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SecateursError, match="choose another --port"):
            serve(folder, "127.0.0.1", taken.getsockname()[1], announce=lambda text: None)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the dashboard of a run folder by its command and return its address."""
    folder = with_journal(tmp_path_factory.mktemp("served"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "search", "dashboard", str(folder), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_listens_on_this_machine_only(served: str) -> None:
    port = int(served.rpartition(":")[2])
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {line.split()[1].partition(":")[0] for line in listening if line.split()[1].endswith(f":{port:04X}")}
    assert addresses == {"0100007F"}
    with urllib.request.urlopen(f"{served}/api/studies", timeout=60) as answer:
        assert answer.status == 200


def browser() -> str:
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    return found


def page(address: str, folder: Path) -> str:
    """Return the text that a browser shows at ``address``."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'browser'}"]
    command = [browser(), *quiet, "--window-size=1600,3000", "--virtual-time-budget=30000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    text = re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", done.stdout, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


def test_a_browser_shows_the_study_its_front_and_its_trials(served: str, tmp_path: Path) -> None:
    browser()
    studies = page(f"{served}/dashboard", tmp_path)
    assert NAME in studies
    study = page(f"{served}/dashboard/studies/0", tmp_path)
    for text in (NAME, "Pareto Front", "Objective X: top1", "Objective Y: macs", "Best Trials", "Params = [first: 0.5"):
        assert text in study
    trials = page(f"{served}/dashboard/studies/0/trials?numbers=3", tmp_path)
    for text in ("Trial 3", "MACs", "of the reference", "30.0 %", trial(3).proposal.candidate.fingerprint):
        assert text in trials


def test_stock_optuna_reads_the_same(folder: Path) -> None:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.journal")))
    found = optuna.load_study(study_name=NAME, storage=storage)
    assert found.trials[3].user_attrs["note"].startswith("| | value | of the reference |")
    assert found.trials[3].user_attrs["metrics"] == dict(trial(3).metrics)
