"""Ablations of what stands around a search: blocks trained by gradient behind the least squares, and a second round.

    python -m benchmarks.reconstruction_ablation --data FOLDER [--targets 0.1 0.05] [--epochs-after 0 1] [--passes 200000]

Rows on a ResNet-20, each a run of the product: ``least squares``, an ``evolution`` that hands on solved layers; ``and 200
gradient steps``, the same network with its blocks trained behind the solution, on 2,048 images and without labels; ``two
rounds``, coarse to fine, each with half of the image passes. Untrained, and behind epochs of a training with distillation from
the checkpoint (that of ``benchmarks.where_search_pays``), whose search is taken over from the untrained run.

Every run is a run folder and every cell a file under ``--results``; a killed benchmark goes on there, and what is done is not
computed again; other passes or sizes need another folder. Prints mean and standard deviation over the seeds of test top-1 and
the paired lead over ``least squares``, with an asterisk where it is more than two standard errors; writes
``reconstruction_ablation.json`` beside the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.one_shot import arguments, begin, clear, run_stages
from benchmarks.pruning_bench import Bench
from benchmarks.pruning_cells import spread
from benchmarks.where_search_pays import Case
from search.output.atomic import write_json

BASE = "least squares"
ROWS = (BASE, "and 200 gradient steps", "two rounds")


def stages(case: Case, row: str) -> list[dict[str, Any]]:
    """Return the pipeline of a row."""
    search: dict[str, Any] = {**case.evolution(case.passes), "baselines": []}
    if row == ROWS[2]:
        search = {**case.evolution(case.passes // 2), "baselines": [], "rounds": 2}
    before, *training = case.stages(search)
    if row != ROWS[1]:
        return [before, *training]
    fitting = {"images": 48, "steps": 2} if case.quick else {"images": 2048, "steps": 200}
    return [before, {"reconstruct": fitting}, *training]


def compute(case: Case, row: str) -> dict[str, Any]:
    """Return a cell, from its file where it is there."""
    name = case.name(f"ablation {row}")
    path = case.bench.folder / f"{name}.json"
    if not path.exists():
        dense = case.bench.reference_top1(case.bench.task(), case.bench.reference(case.bench.task()))
        earlier = None
        start = time.process_time()
        if case.epochs:
            earlier = replace(case, epochs=0).name(f"ablation {row}")
            compute(replace(case, epochs=0), row)
        elif row == ROWS[1]:
            earlier = case.name(f"ablation {BASE}")
            compute(case, BASE)
        report = run_stages(case.own, name, stages(case, row), earlier)
        result = report["result"]
        shared = {"seed": case.bench.seed, "target": case.target, "epochs": case.epochs, "row": row}
        numbers = {"test_top1": result["top1"], "macs": result["macs"], "reference_test_top1": dense}
        write_json(path, {**shared, **numbers, "cpu_seconds": time.process_time() - start})
    return dict(json.loads(path.read_text()))


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return test top-1 and the paired lead over least squares by target, epochs and row."""
    lines = []
    for target, epochs in dict.fromkeys((cell["target"], cell["epochs"]) for cell in cells):
        own = [cell for cell in cells if (cell["target"], cell["epochs"]) == (target, epochs)]
        dense = [100 * cell["reference_test_top1"] for cell in own if cell["row"] == BASE]
        lines.append(f"\nResNet-20 at {target:.0%} of the MACs, {epochs} epochs behind; the checkpoint has {spread(dense)}")
        lines.append(f"{'test top-1 in %':28}{'':>16}{'lead':>18}{'CPU s':>10}")
        base = {cell["seed"]: cell["test_top1"] for cell in own if cell["row"] == BASE}
        for row in dict.fromkeys(cell["row"] for cell in own):
            found = [cell for cell in own if cell["row"] == row]
            leads = [100 * (cell["test_top1"] - base[cell["seed"]]) for cell in found]
            lead = "" if row == BASE else f"{spread(leads)}{' *' if clear(leads) else '  '}"
            top1, seconds = spread([100 * cell["test_top1"] for cell in found]), max(cell["cpu_seconds"] for cell in found)
            lines.append(f"{row:28}{top1:>16}{lead:>18}{seconds:>10.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/reconstruction_ablation")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--epochs-after", type=int, nargs="+", default=[0, 1], help="epochs that the rows are trained for")
    parser.add_argument("--images", type=int, default=20_000, help="training images of these")
    options = parser.parse_args()
    sizes = begin(options)
    images, passes = (sizes.train, 200) if options.quick else (options.images, options.passes)
    cells: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        bench = Bench("resnet20", seed, sizes, options.data, options.results)
        for target in options.targets:
            for epochs in options.epochs_after:
                for row in ROWS:
                    cells.append(compute(Case(bench, target, epochs, images, passes, options.quick), row))
                    place = f"seed {seed} at {target:g}, {epochs} epochs: {row}"
                    print(f"{place}: test {100 * cells[-1]['test_top1']:.2f}", flush=True)
    print(table(cells))
    write_json(options.results.with_suffix(".json"), {"sizes": vars(sizes), "images": images, "passes": passes, "cells": cells})


if __name__ == "__main__":
    main()
