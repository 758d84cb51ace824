"""Other budgets for the network of a finished search, from the tables that it has left: runs of their own, in seconds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluators.metrics import find_metric
from search.algorithms.integer_program import BASELINE_GAP, BASELINE_NODES
from search.config.block import Block
from search.config.goal import Budget
from search.config.loading import Config, load
from search.config.registries import EVALUATOR
from search.output.progress import Log
from search.pipeline.pipeline import run
from search.report.page import render_where_installed
from search.run.run_records import CONFIG
from search.run.search_tables import SearchTables
from search.stages.base import PlacedStage, placed_stages
from search.stages.search.settings import SearchSettings
from search.trust.foreign_config import permitted
from spaces.errors import SecateursError
from spaces.files.json_file import write_record

REFINEMENT = 8
"""Generations of the evolution behind the integer program, by default (ours)."""

KEPT = ("name", "target", "targets", "target_met", "reference", "result")
"""Keys of every run's report.json that the first run's report.json holds."""

_REPEATED = ("uniform", "global_magnitude")
"""Baselines that cost no search of their own, which a new budget is put beside again."""


@dataclass(frozen=True)
class Resolution:
    """One budget of a finished search, as a run of its own.

    Attributes:
        config: The finished run's configuration with another name, target and algorithm.
        folder: The folder of the new run.
        step: Place and name of the search whose tables are read.
    """

    config: Config
    folder: Path
    step: str


def resolutions(
    source: Path,
    budgets: Sequence[Budget],
    refine: int = REFINEMENT,
    runs: Path | None = None,
    stage: str | None = None,
    trust: Sequence[str] = (),
) -> list[Resolution]:
    """Return the runs that find networks at other budgets in a finished run's tables; nothing is read but its configuration.

    Args:
        source: The finished run's folder.
        budgets: A network is found for each.
        refine: Generations of evolution behind the integer program; 0 for none.
        runs: Folder of the new runs' folders; None for that of the finished run's.
        stage: The search, such as ``2-search``, where the run has several.
        trust: Packages whose code may run though somebody else has made the folder.

    Raises:
        SecateursError: The folder holds no run with such a search, or names code that is not trusted.
    """
    path = source / CONFIG
    if not path.is_file():
        raise SecateursError(f"{source} has no {CONFIG}: expected the folder of a finished run, such as runs/NAME")
    if refine < 0:
        raise SecateursError(f"--refine: expected generations, 0 for none, got {refine}")
    with permitted(path, [], trust):
        original = load(path)
    placed = _search_of(original, source, stage)
    found = []
    for budget in budgets:
        name = f"{original.name}-{budget.name}{'' if refine == REFINEMENT else f'-refine-{refine}'}"
        changes = _changes(placed.stage.settings, budget, refine)
        overrides = [f"{placed.path}.{key}={json.dumps(value)}" for key, value in changes.items()]
        overrides += [f"name={name}", "storage=null"]
        with permitted(path, overrides, trust):
            config = load(path, overrides)
        found.append(Resolution(config, (source.absolute().parent if runs is None else runs) / name, placed.step))
    return found


def resolve(source: Path, asked: Sequence[Resolution], console: Console | None = None) -> list[dict[str, Any]]:
    """Run each of several budgets of a finished search, or resume it, and return their report.json files.

    With more than one, that of the first has ``resolved``: of every run :data:`KEPT`.

    Args:
        source: The finished run's folder.
        asked: What :func:`resolutions` has returned.
        console: Console for progress; None shows nothing.

    Raises:
        SecateursError: A piece of the finished run is missing, and named; or a budget is out of reach.
    """
    reports: list[dict[str, Any]] = []
    for place, one in enumerate(asked):
        before = [other.folder for other in asked[:place]]
        reports.append(run(one.config, one.folder, console, source, SearchTables([source, *before], one.step)))
    if len(reports) > 1:
        rows = [{key: report[key] for key in KEPT} for report in reports]
        reports[0] = write_record(asked[0].folder / "report.json", {**reports[0], "resolved": rows})
        with Log(None, console) as log:
            render_where_installed(asked[0].folder, partial(log.write, level=logging.WARNING))
    return reports


def _search_of(config: Config, source: Path, stage: str | None) -> PlacedStage:
    """Return the stage whose tables are read: the only search, or the one that is named."""
    searches = [placed for placed in placed_stages(config) if placed.stage.searches]
    names = ", ".join(placed.step for placed in searches)
    if not searches:
        raise SecateursError(f"{source} is a run without a search: expected one with tables to find other budgets in")
    if stage is None and len(searches) > 1:
        raise SecateursError(f"{source} has {len(searches)} searches: expected --stage, one of {names}")
    found = [placed for placed in searches if stage in (None, placed.step)]
    if not found:
        raise SecateursError(f"--stage {stage}: expected a search of {source}, one of {names}")
    if found[0].stage.settings.training is not None:
        raise SecateursError(
            f"{source}: {found[0].step} trains its candidates, which no table tells the result of; search anew instead: "
            "`python -m search run` with the other target"
        )
    if found[0].stage.settings.passes is not None:
        raise SecateursError(
            f"{source}: {found[0].step} is one of several searches of rounds or iterations, whose baselines keep the last "
            "one's target; search anew instead: `python -m search run` with the other target"
        )
    return found[0]


def _changes(settings: SearchSettings, budget: Budget, refine: int) -> dict[str, Any]:
    """Return the options of a search that differ from those of the finished one, as plain data."""
    return {
        "target": {metric: str(limit) for metric, limit in budget.limits.items()},
        "algorithm": _refinement(settings.algorithm, refine) if refine else _program(),
        "objectives": {name: way for name, way in settings.objectives.items() if not _is_cost(name, settings)},
        "baselines": [name for name in settings.baselines if name in _REPEATED],
        "budget": {},
        "finalists": None,
    }


def _program() -> dict[str, Any]:
    return {"name": "integer_program", "budgets": 1, "gap": BASELINE_GAP, "nodes": BASELINE_NODES}


def _refinement(algorithm: Block, generations: int) -> dict[str, Any]:
    """Return an evolution from the integer program; selection is that of the finished search, where that was one."""
    own = algorithm.settings
    selection: Mapping[str, Any] = (
        {"children": own.children, "switches": own.switches, "preselect": own.preselect}
        | {"steps": [list(step) for step in own.steps]}
        if algorithm.name == "evolution"
        else {}
    )
    return {"name": "evolution", **selection, "generations": generations, "integer_program": True}


def _is_cost(name: str, settings: SearchSettings) -> bool:
    for block in settings.evaluate:
        metrics = EVALUATOR.build(block).metrics
        if name in metrics:
            return bool(metrics[name].is_cost)
    return bool(find_metric(name).is_cost)
