"""Finished trials in Optuna's tables: a whole trial in a few statements, where Optuna needs three for each parameter.

The tables are read from the database, whose version Optuna has checked; a test compares the rows with Optuna's own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from optuna.distributions import distribution_to_json
from sqlalchemy import MetaData, Table, bindparam, func, insert, select
from sqlalchemy.engine import Connection, Engine

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STUDIES = "studies"
_STUDY_ATTRIBUTES, _TRIALS, _VALUES, _PARAMS, _USER_ATTRIBUTES, _SYSTEM_ATTRIBUTES = (
    "study_user_attributes",
    "trials",
    "trial_values",
    "trial_params",
    "trial_user_attributes",
    "trial_system_attributes",
)


class TrialTables:
    """Statements on the tables of an open database, made once: putting one together takes longer than executing it.

    Args:
        engine: The database, in which Optuna has made its tables.
    """

    def __init__(self, engine: Engine) -> None:
        names = [STUDIES, _STUDY_ATTRIBUTES, _TRIALS, _VALUES, _PARAMS, _USER_ATTRIBUTES, _SYSTEM_ATTRIBUTES]
        metadata = MetaData()
        metadata.reflect(engine, only=names)
        tables: dict[str, Table] = {name: metadata.tables[name] for name in names}
        studies, trials, attributes = tables[STUDIES], tables[_TRIALS], tables[_USER_ATTRIBUTES]
        owners = tables[_STUDY_ATTRIBUTES]
        self._insert = {name: insert(table) for name, table in tables.items()}
        self._study = select(studies.c.study_id).where(studies.c.study_name == bindparam("study"))
        self._lock_study = self._study.with_for_update()
        self._count = select(func.count()).select_from(trials).where(trials.c.study_id == bindparam("study"))
        self._owner = select(owners.c.value_json).where(
            owners.c.study_id == bindparam("study"), owners.c.key == bindparam("key")
        )
        self._fingerprint = (
            select(attributes.c.value_json)
            .join(trials, attributes.c.trial_id == trials.c.trial_id)
            .where(
                trials.c.study_id == bindparam("study"),
                trials.c.number == bindparam("number"),
                attributes.c.key == "fingerprint",
            )
        )

    def study_attribute(self, connection: Connection, study: str, key: str) -> Any:
        """Return an attribute of the study named ``study``; None where it is not set."""
        number = connection.execute(self._study, {"study": study}).scalar_one()
        found = connection.execute(self._owner, {"study": number, "key": key}).scalar_one_or_none()
        return None if found is None else json.loads(found)

    def insert_study_attribute(self, connection: Connection, study: str, key: str, value: Any) -> None:
        """Set an attribute of a study that does not have it.

        Raises:
            IntegrityError: The study has it.
        """
        number = connection.execute(self._study, {"study": study}).scalar_one()
        row = {"study_id": number, "key": key, "value_json": json.dumps(value)}
        connection.execute(self._insert[_STUDY_ATTRIBUTES], row)

    def lock_and_count(self, connection: Connection, study: str) -> tuple[int, int]:
        """Lock a study until the transaction ends; return its number in the database, and the number of its trials."""
        number = int(connection.execute(self._lock_study, {"study": study}).scalar_one())
        return number, int(connection.execute(self._count, {"study": number}).scalar_one())

    def fingerprint(self, connection: Connection, study: int, number: int) -> str | None:
        """Return the fingerprint of the candidate of trial ``number``; None for a trial that no run recorded."""
        found = connection.execute(self._fingerprint, {"study": study, "number": number}).scalar_one_or_none()
        return None if found is None else str(json.loads(found))

    def insert_trial(self, connection: Connection, study: int, trial: FrozenTrial) -> None:
        """Write a finished trial under the number in its attributes."""
        values = {
            "study_id": study,
            "number": trial.user_attrs["number"],
            "state": trial.state.name,
            "datetime_start": _utc(trial.datetime_start),
            "datetime_complete": _utc(trial.datetime_complete),
        }
        (trial_id,) = connection.execute(self._insert[_TRIALS], values).inserted_primary_key or (0,)
        for name, rows in _rows(trial).items():
            if rows:
                connection.execute(self._insert[name], [{"trial_id": trial_id, **row} for row in rows])


def _utc(local: datetime | None) -> datetime | None:
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


def _rows(trial: FrozenTrial) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a finished trial, by table; its values are finite."""
    return {
        _VALUES: [
            {"objective": objective, "value": value, "value_type": "FINITE"}
            for objective, value in enumerate(trial.values or ())
        ],
        _PARAMS: [
            {
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ],
        _USER_ATTRIBUTES: _attributes(trial.user_attrs),
        _SYSTEM_ATTRIBUTES: _attributes(trial.system_attrs),
    }


def _attributes(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
