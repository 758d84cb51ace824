"""Open the storage of a run's studies: a journal in the run folder, or a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from search.config.storage_url import StorageUrl

if TYPE_CHECKING:
    from search.run.run_storage import RunStorage

JOURNAL = "study.journal"


def _silent(text: str) -> None:
    pass


def open_journal(path: Path, say: Callable[[str], None] = _silent) -> RunStorage:
    """Open the journal at ``path`` for its only writer, which holds the run folder's lock.

    What a killed writer left is cleared away first: a torn record, which Optuna can't read past, and its lock file,
    which Optuna would wait for.
    """
    import optuna

    from search.study.journal import Journal, cut_torn_records

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cut = cut_torn_records(path)
    if cut:
        say(cut)
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return Journal(path)


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


@contextmanager
def open_storage(
    folder: Path, name: str, url: StorageUrl | None, owner: str, say: Callable[[str], None] = _silent
) -> Iterator[RunStorage]:
    """Open the storage of the run in ``folder`` for its driver, and close its connections at the end.

    Args:
        folder: The run folder, whose lock is held.
        name: The run's name, with which its studies' names begin.
        url: A database, or None for the journal in the run folder.
        owner: The run's identity.
        say: Told what was repaired, and when a database stops answering.

    Raises:
        StorageError: The database can't be opened, or has studies of another run of that name.
    """
    if url is None:
        if not _has_content(folder / JOURNAL) and any(folder.glob("checkpoints/*-search/*/network.safetensors")):
            say(f"{JOURNAL} was lost: the trials of searches that have ended stand in report.json alone")
        yield open_journal(folder / JOURNAL, say)
        return
    import optuna

    from search.study.database import Database
    from search.study.known_storage import remember

    remember(owner, url)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database = Database(url, owner, str(folder.resolve()), say)
    try:
        database.refuse_others(f"{name}/")
        yield database
    finally:
        database.close()
