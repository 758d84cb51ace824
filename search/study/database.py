"""Studies in a database: Optuna's tables, a trial in one transaction, and patience with a server that goes away."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import create_engine, event, insert, inspect, select
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from search.config.storage_url import StorageError, StorageUrl
from search.study.patience import patiently, reason_of
from search.study.trial_tables import find_trial, insert_trial, lock_and_count

if TYPE_CHECKING:
    from optuna.study import StudyDirection
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial

OWNER = "secateurs:owner"
_Answer = TypeVar("_Answer")

# A connection whose server vanished without a word is given up after about half a minute instead of never.
_LIBPQ = {
    "client_encoding": "utf8",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_CONNECT: dict[str, dict[str, Any]] = {
    "postgresql": _LIBPQ,
    "postgresql+psycopg": _LIBPQ,
    "postgresql+psycopg2": _LIBPQ,
    "sqlite": {"timeout": 30.0},
}


class Database(RDBStorage):
    """Optuna's database storage for the one driver of a run.

    A finished trial is written in one transaction of a few statements (Optuna needs three for every parameter), and only
    where its number is the next one: written again after a lost connection, it is found to be there. An operation that the
    server does not answer is tried again for some minutes.

    Args:
        url: Where the database is.
        owner: The run that writes; studies of another run of the same name are refused.
        folder: That run's folder, for messages.
        say: Told when the storage stops answering, and when it is back.

    Raises:
        StorageError: The database can't be opened.
    """

    def __init__(self, url: StorageUrl, owner: str, folder: str, say: Callable[[str], None]) -> None:
        self.name, self._url = str(url), url
        self._owner = {"run": owner, "folder": folder, "host": socket.gethostname()}
        self._say = say
        open_database(url, super().__init__)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _write_ahead)
            self.engine.dispose()

    def close(self) -> None:
        """Close all connections."""
        self.remove_session()
        self.engine.dispose()

    def claim(self, study_id: int, study: str) -> None:
        """Make a study this run's own.

        Raises:
            StorageError: It is another run's.
        """
        mine = {"study_id": study_id, "key": OWNER, "value_json": json.dumps(self._owner)}

        def write() -> dict[str, Any]:
            owner = self._owner_of(study_id)
            if owner is None:
                try:
                    with self.engine.begin() as connection:
                        connection.execute(insert(models.StudyUserAttributeModel), mine)
                except IntegrityError:
                    owner = self._owner_of(study_id)
            return owner or self._owner

        self._refuse(self._patiently(write), study)

    def refuse_others(self, prefix: str) -> None:
        """Make sure that no study whose name begins with ``prefix`` is another run's.

        Raises:
            StorageError: One is; the message names the run's folder.
        """
        for study in self.get_all_studies():
            if study.study_name.startswith(prefix):
                self._refuse(study.user_attrs.get(OWNER, self._owner), study.study_name)

    def _refuse(self, owner: dict[str, Any], study: str) -> None:
        if owner["run"] != self._owner["run"]:
            raise StorageError(
                f"study {study!r} in {self.name} is another run's, in the folder {owner['folder']} of {owner['host']}: give "
                "this run another name, or go on with that one"
            )

    def _owner_of(self, study_id: int) -> dict[str, Any] | None:
        table = models.StudyUserAttributeModel
        query = select(table.value_json).where(table.study_id == study_id, table.key == OWNER)
        with self.engine.connect() as connection:
            found = connection.execute(query).scalar_one_or_none()
        return None if found is None else dict(json.loads(found))

    def _patiently(self, operation: Callable[[], _Answer]) -> _Answer:
        return patiently(operation, self._url, self._say)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create a study, with patience, and return its number."""
        return self._patiently(lambda: super(Database, self).create_new_study(directions, study_name))

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the number of a study, with patience."""
        return self._patiently(lambda: super(Database, self).get_study_id_from_name(study_name))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return Optuna's attributes of a study, with patience."""
        return self._patiently(lambda: super(Database, self).get_study_system_attrs(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions of a study's objectives, with patience."""
        return self._patiently(lambda: super(Database, self).get_study_directions(study_id))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set one of Optuna's attributes of a study, with patience."""
        self._patiently(lambda: super(Database, self).set_study_system_attr(study_id, key, value))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of a study, with patience."""
        self._patiently(lambda: super(Database, self).set_study_user_attr(study_id, key, value))

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies, with patience."""
        return self._patiently(super().get_all_studies)

    def _get_trials(
        self, study_id: int, states: Any, included_trial_ids: set[int], trial_id_greater_than: int
    ) -> list[FrozenTrial]:
        return self._patiently(
            lambda: super(Database, self)._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        )

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is None or "number" not in template_trial.user_attrs:
            raise StorageError("a run records finished trials only, each with its number")
        trial_id, number = self._patiently(lambda: self._write(study_id, template_trial))
        recorded = copy.copy(template_trial)
        recorded.number, recorded._trial_id = number, trial_id
        return recorded

    def _write(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        number = trial.user_attrs["number"]
        with self.engine.begin() as connection:
            there = lock_and_count(connection, study_id)
            if there > number:
                return self._found(connection, study_id, trial), number
            if there < number:
                raise StorageError(
                    f"storage {self.name} has {there} trials of a study of which {number} were recorded: was it put back to "
                    "an older state? The same command goes on from what is there"
                )
            return insert_trial(connection, study_id, trial), int(number)

    def _found(self, connection: Connection, study_id: int, trial: FrozenTrial) -> int:
        """Return the identity of the trial that has this number already: this very one, or somebody else wrote it."""
        found = find_trial(connection, study_id, trial.user_attrs["number"])
        if found is None or found[1] != trial.user_attrs["fingerprint"]:
            raise StorageError(
                f"storage {self.name}: trial {trial.user_attrs['number']} was recorded by somebody else; only the one "
                "driver of a run may write its studies"
            )
        return found[0]


def _write_ahead(connection: Any, record: Any) -> None:
    """Let a dashboard read while a trial is written, and don't force the disk at each: a power cut may cost the last ones."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def probe(url: StorageUrl) -> str:
    """Return ``url`` in words, once the database has answered; nothing is made in it.

    Raises:
        StorageError: It can't be opened.
    """

    def answer(text: str, kwargs: dict[str, Any]) -> None:
        engine = create_engine(text, **kwargs)
        # Connecting would make the file.
        if engine.dialect.name != "sqlite":
            with engine.connect():
                pass
        engine.dispose()

    open_database(url, answer)
    return str(url)


def look_into(url: StorageUrl) -> RDBStorage:
    """Open the database to look at what a run records; nothing is made in it.

    Raises:
        StorageError: It can't be opened, or there are no studies in it.
    """
    storage = open_database(url, _existing)
    if storage is None:
        raise StorageError(f"storage {url} has no studies: expected the database of a run that has begun")
    return storage


def _existing(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage | None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return None
    engine = create_engine(url, **engine_kwargs)
    try:
        if not inspect(engine).has_table(models.StudyModel.__tablename__):
            return None
    finally:
        engine.dispose()
    return RDBStorage(url, engine_kwargs, skip_compatibility_check=True, skip_table_creation=True)


def open_database(url: StorageUrl, connect: Callable[..., _Answer], **options: Any) -> _Answer:
    """Return ``connect(text of the URL, engine_kwargs=..., **options)``, with errors that a person can use.

    Raises:
        StorageError: The URL is wrong, its driver is not installed, or the database does not let us in.
    """
    filled = url.filled()
    try:
        parsed = make_url(filled)
        known = _CONNECT.get(parsed.drivername, {})
        arguments = {key: value for key, value in known.items() if key not in parsed.query}
        return connect(filled, {"connect_args": arguments}, **options)
    except (ImportError, ArgumentError) as error:
        driver = filled.partition("://")[0]
        raise StorageError(
            f"storage: {driver} is no database this Python can reach ({reason_of(error, url)}); for PostgreSQL install "
            "secateurs[postgresql] and write postgresql+psycopg://..."
        ) from None
    except SQLAlchemyError as error:
        raise StorageError(f"storage: cannot open {url}: {reason_of(error, url)}") from None
