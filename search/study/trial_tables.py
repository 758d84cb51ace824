"""Finished trials in Optuna's tables: a whole trial in a few statements, where Optuna needs three for each parameter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.engine import Connection

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Made once: putting a statement together takes longer than executing it.
_STUDIES, _TRIALS, _USER_ATTRIBUTES = (
    model.__table__ for model in (models.StudyModel, models.TrialModel, models.TrialUserAttributeModel)
)
_LOCK_STUDY = select(_STUDIES.c.study_id).where(_STUDIES.c.study_id == bindparam("study")).with_for_update()
_COUNT = select(func.count()).select_from(_TRIALS).where(_TRIALS.c.study_id == bindparam("study"))
_FINGERPRINT = (
    select(_TRIALS.c.trial_id, _USER_ATTRIBUTES.c.value_json)
    .join(_USER_ATTRIBUTES, _USER_ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id)
    .where(
        _TRIALS.c.study_id == bindparam("study"),
        _TRIALS.c.number == bindparam("number"),
        _USER_ATTRIBUTES.c.key == "fingerprint",
    )
)
_INSERT_TRIAL = insert(_TRIALS)
_INSERT_VALUES = insert(models.TrialValueModel.__table__)
_INSERT_PARAMS = insert(models.TrialParamModel.__table__)
_INSERT_USER_ATTRIBUTES = insert(_USER_ATTRIBUTES)
_INSERT_SYSTEM_ATTRIBUTES = insert(models.TrialSystemAttributeModel.__table__)


def lock_and_count(connection: Connection, study_id: int) -> int:
    """Lock a study until the transaction ends, and return the number of its trials."""
    connection.execute(_LOCK_STUDY, {"study": study_id}).one()
    return int(connection.execute(_COUNT, {"study": study_id}).scalar_one())


def find_trial(connection: Connection, study_id: int, number: int) -> tuple[int, str] | None:
    """Return the identity and the candidate's fingerprint of a trial that a run recorded, None where there is none."""
    found = connection.execute(_FINGERPRINT, {"study": study_id, "number": number}).one_or_none()
    return None if found is None else (int(found.trial_id), str(json.loads(found.value_json)))


def insert_trial(connection: Connection, study_id: int, trial: FrozenTrial) -> int:
    """Write a finished trial under the number in its attributes, and return its identity."""
    row = models.TrialModel(datetime_start=trial.datetime_start, datetime_complete=trial.datetime_complete)
    values = {
        "study_id": study_id,
        "number": trial.user_attrs["number"],
        "state": trial.state,
        "datetime_start": row._datetime_start_utc,
        "datetime_complete": row._datetime_complete_utc,
    }
    (trial_id,) = connection.execute(_INSERT_TRIAL, values).inserted_primary_key or (0,)
    for statement, rows in _rows(trial):
        if rows:
            connection.execute(statement, [{"trial_id": trial_id, **row} for row in rows])
    return int(trial_id)


def _rows(trial: FrozenTrial) -> list[tuple[Any, list[dict[str, Any]]]]:
    """Return what belongs to a finished trial, with the statement that writes it."""
    values = []
    for objective, value in enumerate(trial.values or ()):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        values.append({"objective": objective, "value": stored, "value_type": kind})
    params = [
        {
            "param_name": name,
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    ]
    return [
        (_INSERT_VALUES, values),
        (_INSERT_PARAMS, params),
        (_INSERT_USER_ATTRIBUTES, _attributes(trial.user_attrs)),
        (_INSERT_SYSTEM_ATTRIBUTES, _attributes(trial.system_attrs)),
    ]


def _attributes(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
