"""Steps that a run takes over from another one: which they are, and what is said of them before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from search.config.recorded import as_recorded
from search.output.progress import duration
from search.pipeline.plan import PlannedStep, plan, steps_in_words
from search.run.earlier_run import EarlierRun
from search.run.run_folder import RunFolderError
from search.run.stage_run import RESULT
from search.run.steps import NETWORK

if TYPE_CHECKING:
    from search.pipeline.start import Start


def find_earlier(earlier: Path | None, folder: Path | None, start: Start) -> EarlierRun | None:
    """Return the run whose steps are to be taken over, None without one.

    Args:
        earlier: Its folder.
        folder: Folder of the run that takes over, where that is known.
        start: Task of the run that takes over.

    Raises:
        SecateursError: It is no folder of a run, damaged, or the very run that would take over.
    """
    if earlier is None:
        return None
    if folder is not None and folder.exists() and earlier.exists() and folder.samefile(earlier):
        raise RunFolderError(f"--from {earlier} is this run's own folder: the same command without --from goes on with it")
    return EarlierRun(earlier, partial(as_recorded, start.config), start.task.fingerprint)


def reused(steps: Iterable[PlannedStep], earlier: EarlierRun, start: Start) -> list[PlannedStep]:
    """Return the steps that another run has computed, each from a network that is taken over or that the run starts from.

    What a last stage writes into ``best/`` is never taken over.

    Args:
        steps: All steps of the run.
        earlier: The other run.
        start: Configuration and task of the run, whose searches must be of the other one's mode: another has other trials.

    Raises:
        SecateursError: A file of one of them is damaged.
    """
    found: list[PlannedStep] = []
    known: set[str] = set()
    theirs = (
        {} if earlier.reason else {step.place: step.key for step in plan(start.config, start.task.fingerprint, earlier.own)}
    )
    for step in steps:
        known = known or {step.entered}
        mode = start.config.execution.asynchronous if step.placed.stage.searches else None
        key = theirs.get(step.place, step.key)
        if step.entered in known and not step.placed.stage.last and earlier.has(*step.place, key, mode):
            found.append(step)
            known.add(step.key)
    return found


def require_taken(steps: Iterable[PlannedStep], taken: Iterable[PlannedStep], earlier: EarlierRun, search: str) -> None:
    """Refuse to compute what stands before a search whose tables are another run's.

    Args:
        steps: All steps of the run.
        taken: Those that are taken over.
        earlier: The other run.
        search: Place and name of the search, such as ``2-search``.

    Raises:
        RunFolderError: The network of a stage before it is missing there, or was made with other settings; with its path.
    """
    places = {step.place for step in taken}
    for step in steps:
        if step.placed.step == search:
            return
        if step.variant == RESULT and step.place not in places:
            path = step.folder(earlier.folder / "checkpoints") / NETWORK
            reason = earlier.reason or f"{path} is {'of other settings, or of other data' if path.exists() else 'missing'}"
            raise RunFolderError(
                f"{reason}; a search of that run can't be solved again without the networks before it: give back what was "
                "changed since, and give the run's own command again, which makes them"
            )


def reuse_lines(steps: Sequence[PlannedStep], taken: Sequence[PlannedStep], earlier: EarlierRun) -> Iterator[str]:
    """Yield what a run takes over from another one, and what it computes itself, in words.

    Args:
        steps: All steps of the run.
        taken: Those that are taken over.
        earlier: The other run.
    """
    if earlier.reason:
        yield f"nothing is reused from {earlier.folder}: {earlier.reason}"
        return
    places = {step.place for step in taken}
    if taken:
        spent = sum(earlier.seconds(*step.place) for step in taken)
        yield f"reused from {earlier.folder}, {duration(spent)} of work: {steps_in_words(taken)}"
    left = [step for step in steps if step.place not in places]
    if not left:
        return
    first = next((step.placed for step in left if step.variant == RESULT), None)
    why = "" if first is None else next(map(str, earlier.changes(first.index)), "")
    none = "" if taken else f"nothing is reused from {earlier.folder}; "
    yield f"{none}computed: {steps_in_words(left)}{f' ({why})' if why else ''}"


def tell_reuse(start: Start, earlier: Path | None) -> Iterator[str]:
    """Yield what a run would take over from the folder ``earlier``, and what it would compute; nothing without one.

    Raises:
        SecateursError: ``earlier`` is no folder of a run, or damaged.
    """
    source = find_earlier(earlier, None, start)
    if source is not None:
        steps = plan(start.config, start.task.fingerprint)
        yield from reuse_lines(steps, reused(steps, source, start), source)
