"""A loss of accuracy as the budget: the smallest ResNet-20 that keeps it, and the two checks that it is the smallest.

    python -m benchmarks.score_budget --data FOLDER [--seeds 3] [--points 1 3]

Each row is a run of the product on a checkpoint: the integer program's networks at budgets found by bisection, layers solved by
least squares, judged on the search split. ``over the limit`` is the score of what is delivered above the one asked for, in
standard errors of that score: at most one was aimed at. ``2 % less`` counts the seeds for which the best network of 2 % fewer
MACs misses the limit, as the last step of every bisection finds out. ``+3 points`` asks for more than the checkpoint has: the
run ends with the nearest network, and says so. Test top-1 is what the split that decided nothing says.

Every run is a run folder under ``--results``; a killed benchmark goes on there. Writes ``score_budget.json`` beside the folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.one_shot import QUICK_LEVELS, arguments, begin, run_stages
from benchmarks.pruning_bench import Bench, Sizes
from benchmarks.pruning_cells import spread
from search.output.atomic import write_json
from search.stages.search.bisection import TOLERANCE

UNREACHABLE = "+3 points"


def stages(limit: str, quick: bool) -> list[dict[str, Any]]:
    """Return the pipeline that keeps a limit on top-1, such as ``-1 points``."""
    search = {
        "space": {"name": "channel_mask", **({"levels": QUICK_LEVELS} if quick else {})},
        "algorithm": {"name": "integer_program", "gap": 0.001, "nodes": 20_000},
        "evaluate": [{"divergence": {"samples": 32, "pool": 256} if quick else {}}, "cost"],
        "objectives": {"divergence": "minimize"},
        "target": {"top1": f">= {limit}"},
        "reconstruct": {"images": 48 if quick else 768},
        "baselines": [],
    }
    return [{"search": search}]


def compute(bench: Bench[Sizes], limit: str, quick: bool) -> dict[str, Any]:
    """Return the row of a checkpoint and a limit."""
    start = time.process_time()
    dense = bench.reference_top1(bench.task(), bench.reference(bench.task()))
    words = limit.replace("+", "plus-").replace(" ", "-")
    report = run_stages(bench, f"{bench.model}-{bench.seed}-budget-{words}", stages(limit, quick))
    target, steps = report["targets"]["top1"], report["searches"][-1]["algorithm"]["bisection"]["steps"]
    less = [step for step in steps if step["limit"] <= (1 - 2 * TOLERANCE) * report["result"]["macs"]]
    nearest = max(less, key=lambda step: float(step["limit"]), default=None)
    return {
        "seed": bench.seed,
        "limit": limit,
        "met": target["met"],
        "over": target["value"] - target["limit"],
        "error": target["error"],
        "macs_share": report["result"]["macs"] / report["reference"]["macs"],
        "steps": len(steps),
        "missed_below": nearest is not None and not nearest["kept"],
        "test_top1": report["result"]["top1"],
        "reference_test_top1": dense,
        "cpu_seconds": time.process_time() - start,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what was reached by limit."""
    columns = ("met", "over, in errors", "2 % less", "MACs in %", "steps", "test, points", "CPU s")
    lines = [f"{'':12}" + "".join(f"{one:>17}" for one in columns)]
    for limit in dict.fromkeys(row["limit"] for row in rows):
        own = [row for row in rows if row["limit"] == limit]
        cells = (
            f"{sum(row['met'] for row in own)} of {len(own)}",
            spread([row["over"] / row["error"] for row in own]),
            f"{sum(row['missed_below'] for row in own)} of {len(own)}",
            spread([100 * row["macs_share"] for row in own]),
            spread([float(row["steps"]) for row in own]),
            spread([100 * (row["test_top1"] - row["reference_test_top1"]) for row in own]),
            f"{max(row['cpu_seconds'] for row in own):.0f}",
        )
        lines.append(f"{limit:12}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/score_budget")
    parser.add_argument("--points", type=float, nargs="+", default=[1.0, 3.0], help="points of top-1 that may be lost")
    options = parser.parse_args()
    sizes = begin(options)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        bench = Bench("resnet20", seed, sizes, options.data, options.results)
        for limit in [*(f"-{points:g} points" for points in options.points), UNREACHABLE]:
            rows.append(compute(bench, limit, options.quick))
            share = f"{100 * rows[-1]['macs_share']:.1f} % of the MACs"
            print(f"seed {seed}, {limit}: {share}, test {100 * rows[-1]['test_top1']:.2f}", flush=True)
    print(table(rows))
    write_json(options.results.with_suffix(".json"), {"sizes": vars(sizes), "cells": rows})


if __name__ == "__main__":
    main()
