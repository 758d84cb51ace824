"""Checks of settings against each other: the order of stages, and what each of them finds wrong with its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from search.config.block import Block
from search.config.document import Document, Fault, Path
from search.config.registries import STAGE
from search.config.stage_kind import StageKind, Surroundings
from spaces.errors import SecateursError


@dataclass(frozen=True)
class _Placed:
    """A stage as written, right or wrong.

    Attributes:
        index: Its place.
        name: Its name as written.
        kind: Its class; None where nothing is registered under the name.
        stage: The stage; None where its settings have faults of their own. Such a one gets the benefit of the doubt.
    """

    index: int
    name: str
    kind: type[StageKind[Any]] | None
    stage: StageKind[Any] | None

    @property
    def removes(self) -> bool:
        return self.stage is None or self.stage.removes

    @property
    def searches(self) -> bool:
        return self.kind is None or self.kind.searches

    @property
    def last(self) -> bool:
        return self.kind is not None and self.kind.last


def check_consistency(document: Document, stages: Sequence[Block | None], own_scores: bool) -> list[Fault]:
    """Return the faults in the order of the stages, and those that each stage finds in its settings.

    Args:
        document: The configuration.
        stages: Its stages in order, None for one with faults of its own.
        own_scores: True for a task of the user's own class, whose scores are not known before it is built.
    """
    placed = _placed(document, stages)
    faults = [*_order(document, placed), *_quantized(document, placed), *_teacher_before_reference(document, placed)]
    faults += [*_begun(document, placed), *_between(document, placed)]
    surroundings = Surroundings(own_scores, _several_workers(document))
    for one in placed:
        if one.stage is not None:
            found = one.stage.faults(surroundings)
            faults.extend(document.fault(("stages", one.index, one.name, *path), message) for path, message in found)
    return faults


def _several_workers(document: Document) -> bool:
    execution = document.data.get("execution")
    return isinstance(execution, Mapping) and execution.get("executor") == "ray" and execution.get("workers") != 1


def _placed(document: Document, stages: Sequence[Block | None]) -> list[_Placed]:
    found = []
    for index, (name, block) in enumerate(zip(stage_names(document), stages, strict=True)):
        kind: type[StageKind[Any]] | None
        try:
            kind = STAGE.find(name)
        except SecateursError:
            kind = None
        found.append(_Placed(index, name, kind, None if block is None else STAGE.build(block)))
    return found


def stage_names(document: Document) -> list[str]:
    """Return the names of the stages as written, right or wrong."""
    entries = document.data.get("stages")
    names = []
    for entry in entries if isinstance(entries, list) else []:
        named = next(iter(entry), "") if isinstance(entry, Mapping) else entry
        names.append(str(named))
    return names


def _order(document: Document, placed: Sequence[_Placed]) -> Iterable[Fault]:
    for one in placed:
        path, kind = ("stages", one.index), one.kind
        before, after = placed[: one.index], placed[one.index + 1 :]
        if kind is None:
            continue
        instead = f", or use `{kind.instead}`" if kind.instead else ""
        if kind.needs_removal and not any(other.removes for other in before):
            reason = f"{one.name} {kind.purpose or 'works on what a search leaves'}, and no search comes before it"
            yield document.fault(path, f"{reason}; move it behind the search{instead}")
        elif one.stage is not None and one.stage.needs_search and not any(other.searches for other in after):
            reason = f"{one.name} {kind.purpose or 'prepares a search'}, and none comes after it"
            yield document.fault(path, f"{reason}; move it before the search{instead}")
        elif kind.for_inference and (others := [other.name for other in after if not other.last]):
            reason = f"{one.name} {kind.purpose or 'is for inference only'}, and {others[0]} comes after it"
            yield document.fault(path, f"{reason}; move it behind {others[0]}")
        elif kind.last and after:
            yield document.fault(path, f"{one.name} must be the last stage: {after[0].name} would change what it has written")


def _begun(document: Document, placed: Sequence[_Placed]) -> Iterable[Fault]:
    """Refuse to begin a training with which no stage goes on."""
    for one, behind in zip_longest(placed, placed[1:]):
        if one.stage is None or not (option := one.stage.begins_training):
            continue
        if behind is None or (behind.kind is not None and not behind.kind.goes_on):
            came = "nothing is" if behind is None else f"{behind.name} is"
            message = (
                f"these are the first steps of the stage behind, which must be `retrain`, and {came} there: put `retrain` "
                "directly behind, or say what is trained with: finalists.training: {epochs: ...}"
            )
            yield document.fault(("stages", one.index, one.name, *option.split(".")), message)


def _between(document: Document, placed: Sequence[_Placed]) -> Iterable[Fault]:
    """Refuse to train between the passes of a stage with nothing to train by."""
    for one, behind in zip_longest(placed, placed[1:]):
        if one.stage is None or not (option := one.stage.trains_between):
            continue
        if behind is None or (behind.kind is not None and not behind.kind.goes_on):
            came = "nothing is" if behind is None else f"{behind.name} is"
            message = f"the network is trained between as by the stage behind, which must be `retrain`, and {came} there"
            yield document.fault(("stages", one.index, one.name, *option.split(".")), message)


def _quantized(document: Document, placed: Sequence[_Placed]) -> Iterable[Fault]:
    """Refuse to cut or to quantize what an earlier stage has quantized."""
    before: str | None = None
    for one in placed:
        if one.stage is None:
            continue
        if before is not None and one.stage.float_option:
            message = (
                f"{before} leaves a quantized network, from which no channels can be cut, and which can't be made sparse or "
                f"quantized again; move this stage before {before}"
            )
            yield document.fault(("stages", one.index, one.name, one.stage.float_option), message)
        elif before is None and one.stage.quantizes:
            before = f"stages.{one.index}.{one.name}"


def _teacher_before_reference(document: Document, placed: Sequence[_Placed]) -> Iterable[Fault]:
    """Refuse to learn from the reference before there is one."""
    for one in placed:
        if one.stage is None or one.stage.compresses:
            return
        for below, training in one.stage.trainings.items():
            if training.distillation is not None:
                message = (
                    "distillation learns from the network that enters the first compression, and no search or sparse_training "
                    "comes before this stage; leave it out here"
                )
                inside = below.split(".") if below else []
                path: Path = ("stages", one.index, one.name, *inside, "distillation")
                yield document.fault(path, message)
