"""Studies in databases: SQLite everywhere, a real PostgreSQL server where one can be started."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.config.storage_url import StorageError, StorageUrl
from search.study import patience
from search.study.database import OWNER, Database, probe
from search.study.storage import open_storage
from search.study.study import Study
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from tests.postgres_server import PASSWORD, PostgresServer, why_not
from tests.search.small_space import small_problem

NAME = "r/2-search"
Open = Callable[..., Database]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if why_not():
        pytest.skip(why_not())
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture
def postgres(server: PostgresServer) -> Iterator[Open]:
    """Open the server's database, empty; close what was opened."""
    server.execute("DROP SCHEMA public CASCADE")
    server.execute("CREATE SCHEMA public")
    yield from opener(StorageUrl(server.url()))


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Open]:
    yield from opener(StorageUrl(f"sqlite:///{tmp_path / 'study.db'}"))


def opener(url: StorageUrl) -> Iterator[Open]:
    opened: list[Database] = []

    def open_one(owner: str = "me", folder: str = "/runs/r", said: list[str] | None = None) -> Database:
        opened.append(Database(url, owner, folder, (said if said is not None else []).append))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def open_database(request: pytest.FixtureRequest) -> Open:
    found: Open = request.getfixturevalue(request.param)
    return found


def trial(number: int, second: int | None = None, state: str = "complete", fidelity: float = 1.0) -> Trial:
    candidate = Candidate({"first": "1100", "second": f"{(number if second is None else second) % 63 + 1:06b}"})
    if state == "failed":
        return Trial(number, Proposal(candidate), "failed", {}, 0.5, "RuntimeError: no")
    return Trial(number, Proposal(candidate, fidelity), "complete", {"top1": 0.5, "macs": 5.0}, 0.5)


def study_of(database: Database) -> Study:
    return Study(database, NAME, small_problem(), {"macs": 10.0})


def test_trials_come_back_as_they_were(open_database: Open) -> None:
    trials = [trial(0), trial(1, fidelity=0.25), trial(2, state="failed")]
    study = study_of(open_database())
    for one in trials:
        study.add(one)
    assert study_of(open_database()).trials() == trials


def test_a_trial_is_written_as_optuna_itself_writes_it(open_database: Open) -> None:
    database = open_database()
    study = study_of(database)
    for one in (trial(0), trial(1, fidelity=0.25), trial(2, state="failed")):
        study.add(one)
    ours = database.get_all_trials(database.get_study_id_from_name(NAME))
    url = database.url
    theirs = optuna.create_study(storage=optuna.storages.RDBStorage(url), directions=["maximize", "minimize"])
    theirs.add_trials(ours)
    same = ("number", "state", "values", "params", "distributions", "user_attrs", "_system_attrs", "datetime_start", "duration")
    for one, other in zip(ours, theirs.get_trials(), strict=True):
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
    theirs._storage.remove_session()
    theirs._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_written_twice_it_is_there_once(open_database: Open) -> None:
    study = study_of(open_database())
    study.add(trial(0))
    study.add(trial(0))
    study.add(trial(1))
    assert study_of(open_database()).trials() == [trial(0), trial(1)]


def test_somebody_else_who_writes_is_found_out(open_database: Open) -> None:
    first, second = study_of(open_database()), study_of(open_database())
    first.add(trial(0))
    with pytest.raises(StorageError, match="trial 0 was recorded by somebody else"):
        second.add(trial(0, second=9))
    with pytest.raises(StorageError, match="has 1 trials of a study of which 5 were recorded"):
        first.add(trial(5))
    assert study_of(open_database()).trials() == [trial(0)]


def test_another_run_of_the_same_name_is_refused(open_database: Open) -> None:
    study_of(open_database("first", "/runs/one/r")).add(trial(0))
    stranger = open_database("second", "/runs/two/r")
    with pytest.raises(StorageError, match=r"study 'r/2-search' in .* is another run's, in the folder /runs/one/r of"):
        study_of(stranger)
    with pytest.raises(StorageError, match="/runs/one/r"):
        stranger.refuse_others("r/")
    stranger.refuse_others("other/")
    assert study_of(open_database("first", "/moved/r")).trials() == [trial(0)]


def test_of_two_runs_that_begin_at_once_one_is_refused(open_database: Open) -> None:
    databases = [open_database(str(number)) for number in range(6)]
    start = threading.Barrier(len(databases))
    refused: list[str] = []

    def claim(database: Database) -> None:
        start.wait()
        try:
            study_of(database)
        except StorageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=claim, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(databases) - 1
    assert all("is another run's" in text for text in refused)


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back_loses_nothing(
    server: PostgresServer, postgres: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    study = study_of(postgres(said=said))
    study.add(trial(0))
    away = 3.0
    for how in (signal.SIGQUIT, signal.SIGINT):
        back = threading.Timer(away, server.start)
        server.stop(how)
        back.start()
        start = time.monotonic()
        number = len(study.trials())
        assert time.monotonic() - start >= away
        back.join()
        study.add(trial(number))
        server.stop(how)
        back = threading.Timer(1.0, server.start)
        back.start()
        study.add(trial(number + 1))
        back.join()
    assert study_of(postgres()).trials() == [trial(number) for number in range(5)]
    assert len(said) == 8
    assert all("does not answer" in text for text in said[::2])
    assert all("answers again, after" in text for text in said[1::2])
    assert not any(PASSWORD in text for text in said)


def test_a_commit_whose_answer_was_lost_adds_nothing_twice(postgres: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has committed, and the connection is gone before it could say so."""
    import psycopg

    database = postgres()
    study, dialect = study_of(database), database.engine.dialect
    commit, lost = dialect.do_commit, []

    def commit_and_lose(connection: Any) -> None:
        commit(connection)
        if len(lost) < 5:
            lost.append(1)
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", commit_and_lose)
    for number in range(5):
        study.add(trial(number))
    assert len(lost) == 5
    assert study_of(postgres()).trials() == [trial(number) for number in range(5)]


@pytest.mark.slow
def test_connections_ended_at_any_moment_lose_nothing(server: PostgresServer, postgres: Open) -> None:
    database = postgres()
    study = study_of(database)
    done, rng = threading.Event(), random.Random(0)
    ended = [0]

    def end_connections() -> None:
        statement = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'secateurs'"
        )
        while not done.wait(rng.uniform(0.1, 0.6)) and ended[0] < 8:
            ended[0] += len(server.execute(statement))

    thread = threading.Thread(target=end_connections)
    thread.start()
    number = 0
    try:
        while ended[0] < 8:
            study.add(trial(number))
            number += 1
    finally:
        done.set()
        thread.join()
    assert study_of(postgres()).trials() == [trial(one) for one in range(number)]


def test_a_server_that_stays_away_ends_the_run_with_a_clear_error(
    server: PostgresServer, postgres: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 1.0)
    study = study_of(postgres())
    study.add(trial(0))
    server.stop()
    try:
        with pytest.raises(StorageError, match="has not answered for .*the same command goes on") as caught:
            study.add(trial(1))
    finally:
        server.start()
    assert PASSWORD not in str(caught.value)
    again = study_of(postgres())
    assert again.trials() == [trial(0)]
    again.add(trial(1))


def test_what_can_not_be_opened_is_told_at_once_and_without_the_password(server: PostgresServer) -> None:
    for url, message in (
        (server.url("wr0ng-password"), "authentication failed"),
        (server.url().replace("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
        (server.url().replace(str(server.port), "1"), "refused"),
    ):
        start = time.monotonic()
        for attempt in (probe, lambda url: Database(url, "me", "/runs/r", print)):
            with pytest.raises(StorageError, match=message) as caught:
                attempt(StorageUrl(url))
            assert not any(word in str(caught.value) for word in ("wr0ng", PASSWORD))
        assert time.monotonic() - start < 20
    assert probe(StorageUrl(server.url())).endswith(f"secateurs:***@127.0.0.1:{server.port}/postgres")
    assert server.execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nothing+here://u:hidden@h/d", "no database this Python can reach"),
        ("sqlite:////proc/study.db", "cannot open sqlite"),
    ],
)
def test_an_unusable_url_is_explained(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        Database(StorageUrl(url), "me", "/runs/r", print)
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_no_database_is_noticed_before_the_run_and_none_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("no database " * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        probe(StorageUrl(f"sqlite:///{tmp_path / 'a.db'}"))
    probe(StorageUrl(f"sqlite:///{tmp_path / 'b.db'}"))
    assert not (tmp_path / "b.db").exists()


def test_sqlite_can_be_read_while_it_is_written(sqlite: Open) -> None:
    study = study_of(sqlite())
    reader = optuna.storages.RDBStorage(sqlite().url)
    done, failures = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                reader.get_all_trials(reader.get_study_id_from_name(NAME))
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(60):
            study.add(trial(number))
    finally:
        done.set()
        thread.join()
        reader.remove_session()
        reader.engine.dispose()
    assert failures == []
    assert len(study.trials()) == 60


def test_the_owner_is_known_and_the_journal_has_none(tmp_path: Path) -> None:
    url = StorageUrl(f"sqlite:///{tmp_path / 'a.db'}")
    with open_storage(tmp_path, "r", url, "abc") as storage:
        study_of(storage)  # type: ignore[arg-type]
        found = optuna.load_study(study_name=NAME, storage=storage)
        assert found.user_attrs[OWNER]["run"] == "abc"
        assert found.user_attrs[OWNER]["folder"] == str(tmp_path)
    with pytest.raises(StorageError, match="is another run's"), open_storage(tmp_path, "r", url, "xyz"):
        pass
    with open_storage(tmp_path, "r", None, "abc") as journal:
        Study(journal, NAME, small_problem()).add(trial(0))
    assert (tmp_path / "study.journal").exists()
