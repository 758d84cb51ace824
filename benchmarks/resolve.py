"""Another budget from a finished search's tables: CPU seconds of the command, and divergence beside that of a full search.

    python -m benchmarks.resolve --data FOLDER [--seeds 3] [--source 0.22] [--targets 0.1] [--passes 200000]

For every seed a ResNet-20 is searched at ``--source`` of its MACs (``evolution``, the run of ``benchmarks.one_shot``). From
what that leaves, ``python -m search resolve`` finds networks at ``--targets``, without and with refining: processes of their
own, whose CPU seconds are those of the whole command: start, checks, search, reconstruction of result and uniform baseline,
test split, report. Seconds of the reconstructions, by the clock, are in the run's log. Before each command the checkpoint is
run on 2,048 images, whose CPU seconds tell how busy the machine was. A search at the target itself, that of
``benchmarks.one_shot`` again, is what both are compared with: by the Kullback-Leibler divergence from the checkpoint, of
networks with solved layers, on 2,048 images of the test split, which none of them has seen.

Every run is a run folder and each cell a file under ``--results``; a killed benchmark goes on there, and what it was resolving
is resolved anew, so that the time is that of a whole pass. Prints mean and standard deviation over the seeds; writes
``resolve.json`` beside the folder.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.held_back import HeldBack
from benchmarks.one_shot import Case, arguments, begin, run_search
from benchmarks.pruning_bench import Bench
from benchmarks.pruning_cells import spread
from search.config.goal import parse_budgets
from search.export import load
from search.output.atomic import write_json
from search.pipeline.resolve import REFINEMENT, resolutions

REFINED = {"resolve --refine 0": 0, "resolve": REFINEMENT}
"""Generations behind the integer program, by row."""
FULL = "full search"
_SOLVED = re.compile(r"reconstruction: .*\((?:(\d+) min )?([\d.]+)(?: s)?\)")


def evolution(case: Case) -> tuple[str, dict[str, Any]]:
    """Return the name of the run of an ``evolution`` with solved layers, and its algorithm: those of ``one_shot``."""
    name, algorithm, _ = next(case.searches())
    return f"{case.bench.model}-{case.bench.seed}-{case.target:g}-{name}-True", algorithm


def searched(case: Case) -> Path:
    """Return the folder of the search of a case, run unless that is done."""
    name, algorithm = evolution(case)
    folder = case.bench.folder / "runs" / name
    if not (folder / "report.json").exists():
        run_search(case, name, algorithm, True, ("uniform", "integer_program", "random"))
    return folder


def compute(source: Case, target: float, judge: HeldBack) -> list[dict[str, Any]]:
    """Return the rows of a checkpoint at a target."""
    bench, folder = source.bench, searched(source)
    rows = [_resolved(bench, folder, target, row, judge) for row in REFINED]
    return [*rows, _full(Case(bench, target, source.quick, source.passes), judge)]


def _resolved(bench: Bench[Any], source: Path, target: float, row: str, judge: HeldBack) -> dict[str, Any]:
    """Return the row of one call of the command, from its file where it is there."""
    path = bench.folder / f"{source.name}-{row.replace(' ', '')}-{target:g}.json"
    if not path.exists():
        text = f"macs<={100 * target:g}%"
        (asked,) = resolutions(source, parse_budgets([text]), REFINED[row])
        if asked.folder.exists():
            shutil.rmtree(asked.folder)
        reference, start = bench.reference(bench.task()), time.process_time()
        judge.divergence(reference)
        busy = time.process_time() - start
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-m", "search", "resolve", str(source), text, f"--refine={REFINED[row]}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        report = json.loads((asked.folder / "report.json").read_text())["result"]
        numbers = {"cpu_seconds": cpu, "seconds": clock, "checkpoint_cpu_seconds": busy, **_solving(asked.folder)}
        write_json(path, {**_row(bench, target, row, report), **numbers, "divergence": judge.divergence(load(asked.folder))})
    return dict(json.loads(path.read_text()))


def _solving(folder: Path) -> dict[str, float]:
    """Return the seconds by the clock that a run's reconstructions took."""
    found = _SOLVED.findall((folder / "log.txt").read_text())
    return {"reconstruction_seconds": sum(60 * float(minutes or 0) + float(seconds) for minutes, seconds in found)}


def _full(case: Case, judge: HeldBack) -> dict[str, Any]:
    """Return the row of a search at the target, from its file where it is there."""
    folder = searched(case)
    path = case.bench.folder / f"{folder.name}-held-back.json"
    if not path.exists():
        report = json.loads((folder / "report.json").read_text())["result"]
        write_json(path, {**_row(case.bench, case.target, FULL, report), "divergence": judge.divergence(load(folder))})
    return dict(json.loads(path.read_text()))


def _row(bench: Bench[Any], target: float, row: str, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"seed": bench.seed, "target": target, "row": row, "test_top1": result["top1"], "macs": result["macs"]}


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return CPU seconds, divergence, its excess over the full search's and test top-1 by row."""
    lines = []
    for target in dict.fromkeys(cell["target"] for cell in cells):
        own = [cell for cell in cells if cell["target"] == target]
        full = {cell["seed"]: cell["divergence"] for cell in own if cell["row"] == FULL}
        lines.append(f"\nResNet-20 at {target:.0%} of the MACs")
        lines.append(
            f"{'':20}{'CPU s':>16}{'checkpoint, CPU s':>20}{'1000 divergence':>18}{'above full, %':>16}{'top-1 in %':>16}"
        )
        for row in dict.fromkeys(cell["row"] for cell in own):
            found = [cell for cell in own if cell["row"] == row]
            above = [100 * (cell["divergence"] / full[cell["seed"]] - 1) for cell in found if row != FULL]
            seconds = (
                spread([cell[name] for cell in found if name in cell]) for name in ("cpu_seconds", "checkpoint_cpu_seconds")
            )
            divergence, top1 = (
                spread([1000 * cell["divergence"] for cell in found]),
                spread([100 * cell["test_top1"] for cell in found]),
            )
            lines.append("{:20}{:>16}{:>20}{:>18}{:>16}{:>16}".format(row, *seconds, divergence, spread(above), top1))
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/resolve")
    parser.add_argument("--source", type=float, default=0.22, help="target of the search whose tables are read")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.1])
    options = parser.parse_args()
    sizes = begin(options)
    cells: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        bench = Bench("resnet20", seed, sizes, options.data, options.results)
        source, judge = Case(bench, options.source, options.quick, options.passes), HeldBack(bench)
        for target in options.targets:
            for cell in compute(source, target, judge):
                cells.append(cell)
                print(f"seed {seed} at {target:g}: {cell['row']}: divergence {cell['divergence']:.4g}", flush=True)
    print(table(cells))
    shown = {"sizes": vars(sizes), "source": options.source, "passes": options.passes}
    write_json(options.results.with_suffix(".json"), {**shown, "cells": cells})


if __name__ == "__main__":
    main()
