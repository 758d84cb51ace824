"""Channel pruning side by side: our search, Torch-Pruning's pruners, uniform and random masks, and the dense network.

    python -m benchmarks.channel_pruning --data FOLDER [--models resnet20 vgg_small] [--seeds 3] [--workers 2]

Every row starts from the same checkpoint, meets the same MACs target, has the same total number of epochs after the
checkpoint (sparse training counted), and the same optimizer, augmentation and distillation. Every cell is a JSON file
under ``--results`` and is not computed again; a killed benchmark goes on where it stopped. Prints mean and standard
deviation over the seeds, and writes ``channel_pruning.json`` beside the cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.pruning_rows import QUICK, ROWS, Bench, Sizes
from evaluators.cost import count

TARGETS = (0.4, 0.2)


@dataclass(frozen=True)
class Cell:
    """One row at one target for one model and seed."""

    bench: Bench
    row: str
    target: float

    @property
    def path(self) -> Path:
        words = "".join(letter if letter.isalnum() else "-" for letter in self.row).strip("-")
        return self.bench.folder / f"{self.bench.model}-{self.bench.seed}-{words}-{self.target:g}.json"


def compute(cell: Cell) -> dict[str, Any]:
    """Return a cell's numbers, from its file where it has one."""
    if cell.path.exists():
        found: dict[str, Any] = json.loads(cell.path.read_text())
        return found
    start, used = time.perf_counter(), time.process_time()
    bench, task = cell.bench, cell.bench.task()
    reference = bench.reference(task)
    baseline = count(reference, task.example_inputs())["macs"]
    model, epochs = ROWS[cell.row](bench, task, reference, baseline * cell.target, cell.path)
    pruned = time.perf_counter() - start
    numbers = bench.finish(task, model, reference, epochs, cell.path)
    result: dict[str, Any] = {
        "model": bench.model,
        "seed": bench.seed,
        "row": cell.row,
        "target": cell.target,
        "macs_share": numbers["macs"] / baseline,
        "reference_test_top1": bench.reference_top1(task, reference),
        "pruning_seconds": pruned,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - used,
        **numbers,
    }
    temporary = cell.path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(cell.path)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds, in percent, by model, row and target.

    Beside test top-1 stands what the network scored on the search split before it was trained again.
    """
    lines = []
    for model in dict.fromkeys(result["model"] for result in results):
        own = [result for result in results if result["model"] == model]
        lines.append(f"\n{model}: mean ± standard deviation over {len({r['seed'] for r in own})} seeds")
        heads = [f"{target:.0%} of MACs" for target in TARGETS]
        columns = "".join(f"{head:>18}{'before training':>18}" for head in heads)
        lines.append(f"{'test top-1 in %':34}{columns}{'MACs':>14}")
        for row in ROWS:
            cells, shares = [], []
            for target in TARGETS:
                found = [r for r in own if r["row"] == row and r["target"] in (target, 1.0)]
                shares += [f"{statistics.fmean(r['macs_share'] for r in found):.3f}"] if found else []
                cells += [_spread([100 * r[name] for r in found]) for name in ("test_top1", "search_top1_before")]
            lines.append(f"{row:34}" + "".join(f"{cell:>18}" for cell in cells) + f"{' '.join(shares):>14}")
        dense = {r["seed"]: 100 * r["reference_test_top1"] for r in own}
        lines.append(f"the checkpoint itself: {_spread(list(dense.values()))}")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
    return f"{statistics.fmean(values):.2f} ± {spread}"


def _quiet() -> None:
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--models", nargs="+", default=["resnet20", "vgg_small"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--workers", type=int, default=2, help="processes of one torch thread each")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/channel_pruning"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark itself")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if options.quick else Sizes()
    benches = [Bench(m, seed, sizes, options.data, options.results) for seed in range(options.seeds) for m in options.models]
    cells = [
        Cell(bench, row, target)
        for bench in benches
        for row in options.rows
        for target in ((1.0,) if row.startswith("dense") else TARGETS)
    ]
    results: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, get_context("spawn"), initializer=_quiet) as pool:
        list(pool.map(_checkpoint, benches))
        for done in as_completed([pool.submit(compute, cell) for cell in cells]):
            result = done.result()
            results.append(result)
            print(
                f"{len(results)}/{len(cells)} {result['model']} seed {result['seed']} {result['row']} at {result['target']:g}: "
                f"test {100 * result['test_top1']:.2f} ({result['seconds']:.0f} s)",
                flush=True,
            )
    print(table(results))
    summary = {"sizes": dataclasses.asdict(sizes), "cells": sorted(results, key=lambda r: json.dumps(r, sort_keys=True))}
    (options.results / "channel_pruning.json").write_text(json.dumps(summary, indent=1))


def _checkpoint(bench: Bench) -> None:
    bench.reference(bench.task())


if __name__ == "__main__":
    main()
