"""A whole run whose studies are in a database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.config import load
from search.pipeline import run
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import SHORT, command, finish, kill_when, read_report, start, timeless, write_config
from tests.postgres_server import PASSWORD, PostgresServer, why_not


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if why_not():
        pytest.skip(why_not())
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def in_the_folder(recorded: Callable[[str], Path]) -> Path:
    """Return the folder of a run with a journal."""
    return recorded(SHORT)


def with_storage(folder: Path, url: str) -> Path:
    folder.mkdir(exist_ok=True)
    return write_config(folder, f"{SHORT}storage: {url}\n")


def everything_written(folder: Path) -> str:
    return "\n".join(path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_run_in_sqlite_is_killed_and_ends_the_same(tmp_path: Path, in_the_folder: Path) -> None:
    config, folder = with_storage(tmp_path, f"sqlite:///{tmp_path / 'shared.db'}"), tmp_path / "tiny"
    kill_when(start(config, folder), lambda: (folder / "best" / "weights.safetensors").exists())
    finish(start(config, folder))
    assert timeless(read_report(folder)) == timeless(read_report(in_the_folder))
    assert not (folder / "study.journal").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_in_postgresql_keeps_its_password_to_itself(
    tmp_path: Path, server: PostgresServer, in_the_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEURS_TEST_PASSWORD", PASSWORD)
    literal, folder = load(with_storage(tmp_path / "a", server.url())), tmp_path / "tiny"
    report = run(literal, folder, None)
    assert timeless(report) == timeless(read_report(in_the_folder))
    assert PASSWORD not in everything_written(folder)
    assert "secateurs:***@127.0.0.1" in (folder / "config.yaml").read_text()

    from_environment = load(with_storage(tmp_path / "b", server.url("${SECATEURS_TEST_PASSWORD}")))
    assert run(from_environment, folder, None) == report
    with pytest.raises(SecateursError, match=r"storage was 'postgresql.*is now 'postgresql.*/elsewhere'"):
        run(load(with_storage(tmp_path / "c", server.url().replace("/postgres", "/elsewhere"))), folder, None)
    with pytest.raises(SecateursError, match="storage was 'postgresql.* and is now None"):
        run(load(write_config(tmp_path, SHORT)), folder, None)
    with pytest.raises(SecateursError, match=r"study 'tiny/1-search' in .* is another run's, in the folder .*/tiny of"):
        run(from_environment, tmp_path / "other" / "tiny", None)
    assert PASSWORD not in everything_written(tmp_path / "other")


@pytest.mark.slow
def test_a_wrong_password_ends_with_2_before_anything_is_made(tmp_path: Path, server: PostgresServer) -> None:
    config = with_storage(tmp_path / "a", server.url("wr0ng-password"))
    done = command(config, tmp_path / "runs", "seed=4")
    assert done.returncode == 2
    assert "authentication failed" in done.stderr
    assert "wr0ng" not in done.stderr + done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_server_away_for_30_seconds_changes_nothing(tmp_path: Path, server: PostgresServer, in_the_folder: Path) -> None:
    server.execute("DROP SCHEMA public CASCADE")
    server.execute("CREATE SCHEMA public")
    config, folder = with_storage(tmp_path, server.url()), tmp_path / "tiny"
    process = start(config, folder)
    while not (folder / "best" / "weights.safetensors").exists():
        assert process.is_alive()
        process.join(0.01)
    server.stop()
    back = threading.Timer(30.0, server.start)
    back.start()
    finish(process)
    back.join()
    assert timeless(read_report(folder)) == timeless(read_report(in_the_folder))
    log = (folder / "log.txt").read_text()
    assert "does not answer" in log
    assert "answers again, after 3" in log
    assert PASSWORD not in log
