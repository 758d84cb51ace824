"""The steps of a run and their keys, known before any of them is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.run.differences import differences
from search.run.stage_run import DENSE, RESULT
from search.run.steps import StageStep, key_of, start_key
from search.stages.base import PlacedStage, placed_stages

if TYPE_CHECKING:
    from search.config.loading import Config


@dataclass(frozen=True)
class PlannedStep:
    """A stage of the pipeline for the result or for one baseline.

    Attributes:
        placed: The stage.
        variant: ``result``, or the baseline.
        entered: Key of the network that enters.
        key: Hash of everything that the network that leaves depends on.
    """

    placed: PlacedStage
    variant: str
    entered: str
    key: str

    @property
    def place(self) -> tuple[str, str]:
        """The names of the step's two folders, such as ``("2-search", "result")``."""
        return self.placed.step, self.variant

    @property
    def recorded(self) -> bool:
        """True for a step that runs trials, which a study records."""
        return self.variant in self.placed.stage.recorded

    def folder(self, checkpoints: Path) -> Path:
        """Return the step's folder, inside ``checkpoints``."""
        return checkpoints.joinpath(*self.place)


def plan(config: Config, task_fingerprint: str, recorded: Mapping[str, Any] | None = None) -> list[PlannedStep]:
    """Return the steps of a run, in the order in which they are computed.

    Args:
        config: The configuration.
        task_fingerprint: Hash of model and data.
        recorded: The configuration in the form of a run folder's record, for the keys of that folder; None for a new one's.
    """
    stages = placed_stages(config)
    settings: list[dict[str, Any]] = (config.canonical() if recorded is None else recorded)["stages"]
    dense_asked = any(DENSE in placed.stage.baselines for placed in stages)
    keys, reference = {RESULT: start_key(config.seed, task_fingerprint)}, ""
    steps: list[PlannedStep] = []

    def add(placed: PlacedStage, variant: str, entered: str) -> str:
        own = placed.stage.depends_on(variant, settings[placed.index][placed.name])
        # A training that is begun here and ended by the stage behind is that stage's.
        begun = settings[placed.index + 1 : placed.index + 2] if placed.stage.begins_training else []
        key = key_of(entered, variant, reference, own, *begun)
        steps.append(PlannedStep(placed, variant, entered, key))
        return key

    for placed in stages:
        stage, before = placed.stage, keys[RESULT]
        if stage.compresses and not reference:
            reference = before
            if dense_asked:
                keys[DENSE] = before
        after = {RESULT: add(placed, RESULT, before)}
        if stage.searches:
            after |= {baseline: add(placed, baseline, before) for baseline in stage.baselines if baseline != DENSE}
            passing = keys if stage.passes_by else {DENSE}
            after |= {variant: key for variant, key in keys.items() if variant in passing and variant != RESULT}
        else:
            others = {variant: key for variant, key in keys.items() if variant != RESULT}
            after |= {variant: add(placed, variant, key) if stage.trains else key for variant, key in others.items()}
        keys = after
    return steps


def again_lines(steps: Sequence[PlannedStep], checkpoints: Path, changed: Iterable[int]) -> Iterator[str]:
    """Yield what a resumed run computes again because settings have changed since, in words.

    Args:
        steps: All steps of the run.
        checkpoints: Folder of the stages' files.
        changed: Places of the stages whose settings have changed.
    """
    places = set(changed)
    kept = [(step, StageStep(step.folder(checkpoints), step.key).standing()) for step in steps]
    stale = [step for step, standing in kept if standing == "other"]
    own = [step for step in stale if step.placed.index in places]
    behind = [step for step in stale if step.placed.index not in places]
    searches = [step for step in own if step.placed.stage.searches]
    others = [step for step in own if not step.placed.stage.searches]
    added = [step for step, standing in kept if standing == "absent" and step.placed.index in places]
    if searches:
        yield f"goes on from its recorded trials: {steps_in_words(searches)}"
    if others:
        yield f"runs again from the network that entered it: {steps_in_words(others)}"
    if added:
        yield f"added: {steps_in_words(added)}"
    if behind:
        yield f"made anew behind it: {steps_in_words(behind)}"


def changed_stages(old: Any, new: Any) -> set[int]:
    """Return the places of the stages in which two configurations, as plain data, differ."""
    return {int(one.path[1]) for one in differences(old, new) if one.path[0] == "stages" and len(one.path) > 1}


def steps_in_words(steps: Iterable[PlannedStep]) -> str:
    """Return stages with the baselines that go with each: ``1-search (uniform, random)``."""
    variants: dict[str, list[str]] = {}
    for step in steps:
        variants.setdefault(step.placed.step, []).append(step.variant)
    words = []
    for name, found in variants.items():
        baselines = [variant for variant in found if variant != RESULT]
        inner = ", ".join(baselines if RESULT not in found else [f"with {', '.join(baselines)}"] if baselines else [])
        words.append(f"{name} ({inner})" if inner else name)
    return ", ".join(words)
