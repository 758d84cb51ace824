"""The record of a search that another run has made, copied into a run that takes the search over."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from search.study.dashboard import open_to_look
from search.study.storage import JOURNAL
from search.study.study import claimed_study, thaw
from spaces.errors import SecateursError

if TYPE_CHECKING:
    from search.run.run_storage import RunStorage


def take_study(folder: Path, theirs: str, storage: RunStorage, own: str, entered: str) -> str:
    """Copy a study, and return a line on why that could not be done; empty where it was.

    A copy that was cut off goes on behind its last trial.

    Args:
        folder: The other run's folder, with its journal.
        theirs: Name of the study there.
        storage: Storage of the run that takes over.
        own: Name of its study.
        entered: Key of the network that was searched.

    Raises:
        SecateursError: A trial is damaged, or the storage does not answer.
    """
    import optuna

    journal = folder / JOURNAL
    missing = f"the trials of {theirs!r} are not in {journal}: those of the search stand in report.json alone"
    if not journal.is_file():
        return missing
    source = open_to_look(journal, lambda text: None)
    if theirs not in optuna.get_all_study_names(storage=source):
        return missing
    found = optuna.load_study(study_name=theirs, storage=source)
    trials = found.get_trials(deepcopy=False)
    for trial in trials:
        try:
            thaw(trial)
        except SecateursError as error:
            raise SecateursError(f"{journal}: study {theirs!r}: {error}; leave out --from, or give another folder") from None

    copy = claimed_study(storage, own, found.directions, entered)
    if found.metric_names is not None:
        names = found.metric_names
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage.patiently(lambda: copy.set_metric_names(names))
    known = storage.patiently(lambda: len(copy.get_trials(deepcopy=False)))
    for trial in trials[known:]:
        storage.record(copy, trial)
    return ""
