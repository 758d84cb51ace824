"""Record every evaluated proposal as one Optuna trial, in number order."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from search.study.pareto import violation
from search.study.problem import Problem
from search.study.trial import Proposal, Trial
from search.study.trial_note import NOTE, trial_note
from spaces.base import SearchSpace
from spaces.candidate import Candidate, Value
from spaces.domains import Domain
from spaces.errors import SecateursError
from spaces.files.digest import digest_of
from spaces.files.json_file import DIGEST

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from search.run.run_storage import RunStorage


ENTERED = "entered"
"""User attribute of a study: key of the network that is searched."""


class StudyError(SecateursError):
    """Recorded study that does not fit the search that is run on it."""


class Study:
    """Record of one search. Trials are added finished, so that each is recorded wholly or not at all.

    Args:
        storage: The run's storage.
        name: The study's name, such as ``NAME/2-search``.
        problem: Objectives, targets and the space that describes candidates.
        reference: Costs of the reference network by metric, for the notes of trials.
        entered: Key of the network that is searched: trials that were recorded on another one are given up. Empty keeps all.
        told: Called with every trial that is added, once it is recorded.

    Raises:
        StudyError: A study of this name has other objectives.
        StorageError: A study of this name is another run's, or the storage does not answer.
    """

    def __init__(
        self,
        storage: RunStorage,
        name: str,
        problem: Problem,
        reference: Mapping[str, float] | None = None,
        entered: str = "",
        told: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        import optuna

        self.name = name
        self.problem = problem
        self._told = told
        self._reference = dict(reference or {})
        directions = [objective.direction for objective in problem.objectives]
        self._storage = storage
        metrics = [objective.metric for objective in problem.objectives]
        self._study = claimed_study(storage, name, directions, entered)
        known = storage.patiently(lambda: self._study.metric_names)
        if known is not None and known != metrics:
            raise StudyError(f"study {name!r} records {known}, this search seeks {metrics}: give the run another name")
        if known is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage.patiently(lambda: self._study.set_metric_names(metrics))

    def trials(self) -> list[Trial]:
        """Return the recorded trials, in number order."""
        recorded = self._storage.patiently(lambda: self._study.get_trials(deepcopy=False))
        try:
            return [thaw(frozen) for frozen in recorded]
        except StudyError as error:
            raise StudyError(
                f"study {self.name!r}: {error}. Put the storage back to an older state, or give this run another name: its "
                f"{len(recorded)} trials are then evaluated anew"
            ) from None

    def add(self, trial: Trial) -> None:
        """Record a finished trial; numbers must come in order."""
        self._storage.record(self._study, self._freeze(trial))
        self._told(trial)

    def _freeze(self, trial: Trial) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        problem, candidate = self.problem, trial.proposal.candidate
        params = problem.space.describe(candidate)
        complete = trial.state == "complete"
        whole = trial.proposal.fidelity >= 1.0
        values = [float(trial.metrics[objective.metric]) for objective in problem.objectives] if complete else None
        attributes = {
            "number": trial.number,
            "candidate": candidate.to_json(),
            "fingerprint": candidate.fingerprint,
            "fidelity": trial.proposal.fidelity,
            "warm_start": trial.proposal.warm_start,
            "metrics": dict(trial.metrics),
            "seconds": trial.seconds,
            NOTE: trial_note(trial, problem, self._reference),
            **({"error": trial.error} if trial.error else {}),
            **({_NOTES: dict(trial.proposal.notes)} if trial.proposal.notes else {}),
        }
        frozen = create_trial(
            state=(TrialState.COMPLETE if whole else TrialState.PRUNED) if complete else TrialState.FAIL,
            values=values,
            params=dict(params),
            distributions=distributions(problem.space, params),
            user_attrs={**attributes, DIGEST: _digest(attributes, values)},
            system_attrs={"constraints": [violation(trial, problem)]} if complete and problem.targets else {},
        )
        if frozen.datetime_complete is not None:
            frozen.datetime_start = frozen.datetime_complete - timedelta(seconds=trial.seconds)
        return frozen


def claimed_study(storage: RunStorage, name: str, directions: Sequence[Any], entered: str = "") -> OptunaStudy:
    """Return the study of a name, this run's own; made anew where there is none, or one on another network.

    Args:
        storage: The run's storage.
        name: The study's name.
        directions: Directions of a new study's objectives.
        entered: Key of the network that is searched; empty for any.

    Raises:
        StorageError: The study is another run's, or the storage does not answer.
    """
    import optuna

    def create() -> OptunaStudy:
        return optuna.create_study(storage=storage, study_name=name, directions=list(directions), load_if_exists=True)

    study = storage.patiently(create)
    storage.claim(study)
    searched = storage.patiently(lambda: study.user_attrs.get(ENTERED))
    if entered and searched not in (None, entered):
        storage.patiently(lambda: optuna.delete_study(study_name=name, storage=storage))
        return claimed_study(storage, name, directions, entered)
    if entered and searched is None:
        storage.patiently(lambda: study.set_user_attr(ENTERED, entered))
    return study


def distributions(space: SearchSpace[Any], params: dict[str, Value]) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of every described value, by its name."""
    domains = space.domains
    return {name: _distribution(value, domains.get(name)) for name, value in params.items()}


def _distribution(value: Value, domain: Domain | None) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if domain is not None and domain.choices:
        return CategoricalDistribution(list(domain.choices))
    if domain is not None and domain.bounds is not None:
        return FloatDistribution(*domain.bounds, log=domain.log)
    if isinstance(value, float):
        return FloatDistribution(min(0.0, value), max(1.0, value))
    return CategoricalDistribution([value])


_NOTES = "algorithm"
_PROTECTED = ("number", "candidate", "fingerprint", "fidelity", "warm_start", "metrics", "error")


def _digest(attributes: Mapping[str, Any], values: Sequence[float] | None) -> str:
    """Return the digest of a recorded trial: of its candidate, proposal, values, metrics and the algorithm's notes, if any."""
    parts = [*(attributes.get(name) for name in _PROTECTED), *([attributes[_NOTES]] if _NOTES in attributes else [])]
    return digest_of(json.dumps([*parts, None if values is None else list(values)], sort_keys=True).encode())


def _damaged(frozen: FrozenTrial) -> str:
    return f"trial {frozen.number} is damaged, or was changed since it was recorded"


def thaw(frozen: FrozenTrial) -> Trial:
    """Return the trial that Optuna has recorded.

    Raises:
        StudyError: It is damaged.
    """
    attributes = frozen.user_attrs
    try:
        candidate = Candidate.from_json(attributes["candidate"])
        # Trials of earlier versions have no digest.
        whole = attributes.get(DIGEST, _digest(attributes, frozen.values)) == _digest(attributes, frozen.values)
        same = candidate.fingerprint == attributes["fingerprint"] and attributes["number"] == frozen.number
    except (KeyError, TypeError, ValueError, SecateursError) as error:
        raise StudyError(f"{_damaged(frozen)} ({type(error).__name__}: {error})") from None
    if not (whole and same):
        raise StudyError(_damaged(frozen))
    return Trial(
        number=frozen.number,
        proposal=Proposal(candidate, attributes["fidelity"], attributes["warm_start"], notes=attributes.get(_NOTES, {})),
        state="failed" if frozen.values is None else "complete",
        metrics=attributes["metrics"],
        seconds=attributes["seconds"],
        error=attributes.get("error", ""),
    )


def check_replay(recorded: Trial, proposal: Proposal) -> None:
    """Raise unless the algorithm, told the recorded trials, proposes the recorded candidate again.

    Raises:
        StudyError: It doesn't: another version of the program or of a library, or other hardware.
    """
    if recorded.proposal == proposal:
        return
    was, now = recorded.proposal, proposal
    raise StudyError(
        f"trial {recorded.number}: the study has candidate {was.candidate.fingerprint} at fidelity {was.fidelity:g}, "
        f"but the algorithm now proposes {now.candidate.fingerprint} at fidelity {now.fidelity:g}. The search can't go "
        "on where it stopped: was the program, a library or the machine changed? Start it again under another name"
    )
