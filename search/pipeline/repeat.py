"""Repetition of a run with other seeds, each in a folder of its own, side by side in the first run's report."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from search.config.loading import Config
from search.output.progress import Log
from search.pipeline.pipeline import run
from search.report.page import render_where_installed
from spaces.files.json_file import write_record

KEPT = ("seed", "reference", "result", "baselines", "target_met")
"""Keys of every seed's report.json that the first run's report.json holds."""


def repeat(
    config: Config, folder: Path, seeds: int, console: Console | None = None, earlier: Path | None = None
) -> dict[str, Any]:
    """Run a pipeline with ``seeds`` seeds, or resume that, and return the report.json of the first run.

    The first run is the one without repetition; the others are in ``NAME-seed-N`` beside it. With more than one,
    report.json has ``seeds``: of every run its ``seed``, ``reference``, ``result``, ``baselines`` and ``target_met``.

    Args:
        config: The configuration; its seed is the first.
        folder: The first run's folder.
        seeds: Number of runs.
        console: Console for progress; None shows nothing.
        earlier: Folder of another run whose steps are taken over; of the other seeds ``NAME-seed-N`` beside it, if there.

    Raises:
        SecateursError: A run can't work as configured, or a folder is another run's or in use.
    """
    report = run(config, folder, console, earlier=earlier)
    if seeds == 1:
        return report
    runs = [report]
    for seed in range(config.seed + 1, config.seed + seeds):
        name = f"{config.name}-seed-{seed}"
        other = config.model_copy(update={"name": name, "seed": seed})
        beside = None if earlier is None else earlier.with_name(f"{earlier.resolve().name}-seed-{seed}")
        runs.append(
            run(other, folder.with_name(name), console, earlier=beside if beside is not None and beside.exists() else None)
        )
    rows = [{key: one[key] for key in KEPT} for one in runs]
    others = [{**row, "what": f"{one['name']}: {row['what']}"} for one in runs[1:] for row in one["failures"]]
    whole = {**report, "seeds": rows, "failures": [*report["failures"], *others]}
    report = write_record(folder / "report.json", whole)
    with Log(None, console) as log:
        render_where_installed(folder, partial(log.write, level=logging.WARNING))
    return report
