"""Passes of a search: one budget after the other, each on the network that the pass before has left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from search.config.block import Block, Limit, ScoreLimit
from search.config.document import Path
from search.config.registries import SPACE
from search.stages.search.settings import PassSettings, SearchSettings
from spaces.candidate import Candidate

if TYPE_CHECKING:
    from search.stages.search.context import SearchContext


def pass_faults(settings: SearchSettings) -> Iterable[tuple[Path, str]]:
    """Yield the faults in ``rounds`` and ``iterations``: the path below the stage's options, and a message."""
    if settings.rounds == 1 and not settings.iterations:
        return
    name = "iterations" if settings.iterations else "rounds"
    if settings.rounds > 1 and settings.iterations:
        yield ("rounds",), "expected rounds or iterations, got both"
    if SPACE.find(settings.space.name).quantizes_with(settings.space.settings):
        yield (name,), f"{settings.space.name} quantizes, and a quantized network can't be searched again; leave {name} out"
    if settings.rounds > 1 and "levels" not in {field.name for field in fields(settings.space.settings)}:
        yield ("rounds",), f"the steps of levels are halved with every round, and {settings.space.name} has none"
    if settings.rounds > 1 and settings.training is not None:
        yield ("rounds",), "expected no search.training: nothing is trained between rounds; use iterations"
    target = [share for share in map(_share, settings.target.values()) if share is not None]
    if len(settings.target) != 1 or not target:
        yield (name,), 'expected one target, a share of a cost such as {macs: "<= 20%"}, to come down to step by step'
    elif settings.iterations:
        shares = [_share(limit) or 0.0 for limit in settings.iterations]
        if any(first <= second for first, second in pairwise(shares)) or shares[-1] != target[0]:
            came = ", ".join(str(limit).removeprefix("<= ") for limit in settings.iterations)
            yield (name,), f"expected shares that fall to that of the target, <= {100 * target[0]:g}%; got {came}"


def pass_settings(settings: SearchSettings) -> tuple[SearchSettings, ...]:
    """Return the settings of every pass, those of the search itself where it has one only.

    The first pass makes the baselines, at the target of the last one.
    """
    limits = _limits(settings)
    if len(limits) == 1:
        return (settings,)
    (metric,) = settings.target
    found = []
    for number, limit in enumerate(limits):
        first, last = number == 0, number == len(limits) - 1
        found.append(
            replace(
                settings,
                target={metric: limit},
                space=_coarser(settings.space, len(limits) - 1 - number) if settings.rounds > 1 else settings.space,
                baselines=settings.baselines if first else (),
                finalists=settings.finalists if last or settings.iterations else None,
                rounds=1,
                iterations=(),
                passes=PassSettings(tuple(limits[number + 1 :]), not first, dense=settings.rounds > 1),
            )
        )
    return tuple(found)


def at_final(context: SearchContext, settings: SearchSettings) -> SearchContext:
    """Return a search with the targets of the last pass, for the baselines beside it."""
    if settings.passes is None or not settings.passes.toward:
        return context
    ((_, limit),) = settings.limits.items()
    factor = settings.passes.toward[-1].value / limit.value
    targets = [replace(target, limit=target.limit * factor) for target in context.targets]
    return replace(context, targets=targets, problem=replace(context.problem, targets=targets))


def final_limits(settings: SearchSettings) -> Mapping[str, Any]:
    """Return the target of the last pass."""
    toward = () if settings.passes is None else settings.passes.toward
    return dict.fromkeys(settings.target, toward[-1]) if toward else settings.target


def whole_rows(rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the report's rows of channel groups, their channels counted before the first of some earlier cuts.

    Args:
        rows: ``name``, ``channels`` and ``kept`` of every group of the network behind these cuts.
        earlier: Changes of structure before, in order.
    """
    found = {row["name"]: dict(row) for row in rows}
    for change in reversed(earlier):
        if change["kind"] == "slice_channels":
            masks = Candidate(change["candidate"])
            for name in masks.values:
                mask = masks.mask(name)
                found.setdefault(name, {"name": name, "kept": int(mask.sum())})["channels"] = len(mask)
    return list(found.values())


def _share(limit: Limit | ScoreLimit) -> float | None:
    """Return a limit as a share of the reference's cost; None for another limit."""
    return None if limit.on_score or not cast(Limit, limit).relative else limit.value


def _limits(settings: SearchSettings) -> list[Limit]:
    """Return the limit of every pass: those of ``iterations``, or for ``rounds`` shares that fall by one factor (ours)."""
    if settings.iterations or settings.rounds == 1:
        return [cast(Limit, limit) for limit in settings.iterations] or [Limit(1.0, relative=True)]
    ((_, limit),) = settings.limits.items()
    shares = [round(limit.value ** (number / settings.rounds), 6) for number in range(1, settings.rounds)]
    return [*(Limit(share, relative=True) for share in shares), limit]


def _coarser(space: Block, times: int) -> Block:
    """Return a space with levels of twice the step, ``times`` times."""
    levels = space.settings.levels
    return replace(space, settings=replace(space.settings, levels=replace(levels, steps=max(2, levels.steps >> times))))
