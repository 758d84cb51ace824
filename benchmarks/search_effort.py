"""Whole searches to the same divergence: CPU seconds of ``evolution`` beside those of ``genetic``, on a ResNet-20.

    python -m benchmarks.search_effort --data FOLDER [--seeds 3] [--target 0.2] [--passes 50000] [--factor 3]

``evolution`` of levels searches with ``--passes`` image passes; its CPU seconds are those of its whole run: tables, search,
reconstruction, report. ``genetic`` over masks, with divergence and with top-1 as its objective, gets at least ``--factor``
times as many: after a first run its evaluations grow until that is spent, and it goes on in its folder. All end with layers
solved by least squares, no baselines, and are judged by the Kullback-Leibler divergence from the checkpoint on the same 2,048
images of the test split. Where ``genetic`` is still behind, ``evolution`` takes less than the share 1 / ``--factor`` of the
effort to the same divergence; ``times`` is what ``genetic`` has spent in all. Each time that it goes on costs it the start and
the end of a run, a few seconds, which count.

Every run is a run folder and each row a file under ``--results``; a killed benchmark computes again the row that it was at.
Prints CPU seconds and divergence; writes ``search_effort.json`` beside the folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.held_back import HeldBack
from benchmarks.one_shot import QUICK_LEVELS, arguments, begin, run_stages
from benchmarks.pruning_bench import Bench, Sizes
from benchmarks.pruning_cells import spread
from search.algorithms.evolution import EvolutionSettings
from search.export import load
from search.output.atomic import write_json

EVOLUTION = "evolution"
GENETIC = {"genetic, divergence": False, "genetic, top-1": True}
"""Rows that are compared with evolution, and whether labelled images are what they go by."""
FIRST = 100
"""Evaluations of a first run of ``genetic``, of which the effort of one is learnt."""


def stages(row: str, target: float, passes: int, evaluations: int, quick: bool) -> list[dict[str, Any]]:
    """Return the pipeline of a row.

    Args:
        row: Name of the row.
        target: Share of the checkpoint's MACs.
        passes: Images on which ``evolution`` measures candidates.
        evaluations: Evaluations of ``genetic``.
        quick: Tiny sizes.
    """
    labelled = GENETIC.get(row, False)
    if row == EVOLUTION:
        steps = ((16, 2), (32, 1)) if quick else EvolutionSettings().steps
        shape = EvolutionSettings(children=4, steps=steps) if quick else EvolutionSettings()
        generations = max(1, int(passes / (shape.passes * steps[-1][0])))
        sized = {"children": shape.children, "steps": [list(step) for step in steps]}
        algorithm = {"name": EVOLUTION, "generations": generations, **sized}
    else:
        algorithm = {"name": "genetic", "population": 4 if quick else 20, "generations": None, "evaluations": evaluations}
    measured = {"accuracy": {"split": "search"}} if labelled else {"divergence": {"samples": 32, "pool": 256} if quick else {}}
    search = {
        "space": {"name": "channel_mask", **({"levels": QUICK_LEVELS} if quick else {})},
        "algorithm": algorithm,
        "evaluate": [measured, "cost"],
        "objectives": {"top1": "maximize"} if labelled else {"divergence": "minimize"},
        "target": {"macs": f"<= {100 * target:g}%"},
        "reconstruct": {"images": 48 if quick else 768},
        "baselines": [],
    }
    return [{"search": search}]


def compute(bench: Bench[Sizes], options: Any) -> list[dict[str, Any]]:
    """Return the rows of a checkpoint."""
    judge, found = HeldBack(bench), list[dict[str, Any]]()
    for row in (EVOLUTION, *GENETIC):
        name = f"{bench.model}-{bench.seed}-{options.target:g}-effort-{row.replace(', ', '-')}"
        path = bench.folder / f"{name}.json"
        if not path.exists():
            shutil.rmtree(bench.folder / "runs" / name, ignore_errors=True)
            enough = 0.0 if row == EVOLUTION else options.factor * found[0]["cpu_seconds"]
            spent, evaluations = _spend(bench, name, row, enough, options)
            judged = {"divergence": judge.divergence(load(bench.folder / "runs" / name)), "evaluations": evaluations}
            write_json(path, {"seed": bench.seed, "row": row, "cpu_seconds": spent, **judged})
        found.append(json.loads(path.read_text()))
        words = f"divergence {found[-1]['divergence']:.4g}, {found[-1]['cpu_seconds']:.0f} CPU seconds"
        print(f"seed {bench.seed}: {row}: {words}", flush=True)
    return found


def _spend(bench: Bench[Sizes], name: str, row: str, enough: float, options: Any) -> tuple[float, int]:
    """Run a row until it has spent ``enough`` CPU seconds, and return these and its evaluations."""
    spent, evaluations = 0.0, 8 if options.quick else FIRST
    while True:
        start = time.process_time()
        # Tables count: those of another run are not taken over.
        run_stages(bench, name, stages(row, options.target, options.passes, evaluations, options.quick), alone=True)
        spent += time.process_time() - start
        if spent >= enough:
            return spent, evaluations
        evaluations += max(1, round(evaluations * (enough - spent) / spent))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return CPU seconds, their multiple of evolution's, divergence and how often it is above evolution's, by row."""
    base = {row["seed"]: row for row in rows if row["row"] == EVOLUTION}
    lines = [f"{'':24}{'CPU s':>20}{'times':>16}{'1000 divergence':>20}{'behind':>10}"]
    for name in (EVOLUTION, *GENETIC):
        own = [row for row in rows if row["row"] == name]
        seconds, divergence = spread([row["cpu_seconds"] for row in own]), spread([1000 * row["divergence"] for row in own])
        times = spread([row["cpu_seconds"] / base[row["seed"]]["cpu_seconds"] for row in own])
        behind = sum(row["divergence"] > base[row["seed"]]["divergence"] for row in own)
        last = "" if name == EVOLUTION else f"{behind} of {len(own)}"
        lines.append(f"{name:24}{seconds:>20}{times:>16}{divergence:>20}{last:>10}")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/search_effort")
    parser.set_defaults(passes=50_000)
    parser.add_argument("--target", type=float, default=0.2, help="share of the checkpoint's MACs")
    parser.add_argument("--factor", type=float, default=3.0, help="effort of genetic, in that of evolution")
    options = parser.parse_args()
    sizes = begin(options)
    options.passes = 200 if options.quick else options.passes
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows += compute(Bench("resnet20", seed, sizes, options.data, options.results), options)
    print(table(rows))
    shown = {"sizes": vars(sizes), "target": options.target, "passes": options.passes, "factor": options.factor}
    write_json(options.results.with_suffix(".json"), {**shown, "cells": rows})


if __name__ == "__main__":
    main()
