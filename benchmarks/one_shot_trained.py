"""Training behind one-shot networks: what is left of the leads of ``benchmarks.one_shot``, from the networks that it has left.

    python -m benchmarks.one_shot --results FOLDER ...
    python -m benchmarks.one_shot_trained --source FOLDER [--models resnet20] [--targets 0.05] [--epochs-after 2] ...

Rows are ``evolution`` with solved layers and its baselines, whose searches are taken over from the runs in ``--source``, and
Torch-Pruning (group L2, local). All are trained for as many epochs of the checkpoint's images, with distillation from the
checkpoint, the training of ``benchmarks.where_search_pays``. Sizes are those that ``one_shot`` was called with.

Every run is a run folder under ``--results``; a killed benchmark goes on there. Prints mean and standard deviation of test
top-1 and the paired difference to uniform with its standard error; writes ``one_shot_trained.json`` beside the folder.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.one_shot import PEERS, arguments, begin
from benchmarks.pruning_bench import Bench, Sizes
from benchmarks.where_search_pays import BASELINES, Case, peer, table
from search.config.document import read_document, to_yaml
from search.config.loading import load
from search.output.atomic import write_json
from search.pipeline.pipeline import run

ROWS = (*BASELINES, PEERS[0])
"""Rows beside ``evolution``, of which those that ``one_shot`` has are there."""


def compute(case: Case, source: Path) -> list[dict[str, Any]]:
    """Return the rows of a case, of networks searched by the run of ``one_shot`` in the folder ``source``."""
    bench, start = case.bench, time.process_time()
    for ending in ("safetensors", "json"):
        if not (copied := bench.folder / f"{bench.model}-{bench.seed}-checkpoint.{ending}").exists():
            shutil.copy(source / copied.name, copied)
    searched = f"{bench.model}-{bench.seed}-{case.target:g}-evolution-True"
    config = read_document(source / f"{searched}.yaml").data
    (searching,) = config["stages"]
    own = [one for one in searching["search"]["baselines"] if one in case.wanted]
    search = {"search": {**searching["search"], "baselines": own}}
    config |= {"name": case.name("evolution"), "stages": [search, {"retrain": case.retrain(case.epochs)}]}
    path = bench.folder / f"{config['name']}.yaml"
    path.write_text(to_yaml(config))
    report = run(load(path), bench.folder / "runs" / config["name"], earlier=source / "runs" / searched)
    dense = bench.reference_top1(bench.task(), bench.reference(bench.task()))
    shared = {"model": bench.model, "seed": bench.seed, "target": case.target, "epochs": case.epochs}
    result = {**report["result"], "before_retraining": report["searches"][-1]["metrics"]}
    seconds = time.process_time() - start
    rows = [
        {
            **shared,
            "row": row,
            "test_top1": one["top1"],
            "macs": one["macs"],
            "divergence": one["before_retraining"]["divergence"],
            "reference_test_top1": dense,
            "cpu_seconds": seconds,
        }
        for row, one in {"evolution": result, **report["baselines"]}.items()
    ]
    return [*rows, *([{**shared, **peer(case), "reference_test_top1": dense}] if PEERS[0] in case.wanted else [])]


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/one_shot_trained")
    parser.add_argument("--source", type=Path, default=Path("benchmarks/results/one_shot"), help="folder of one_shot's runs")
    parser.add_argument("--models", nargs="+", default=["resnet20"])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.05])
    parser.add_argument("--epochs-after", type=int, nargs="+", default=[2], help="epochs that the rows are trained for")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, help="beside evolution")
    options = parser.parse_args()
    sizes: Sizes = begin(options)
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for model in options.models:
            bench = Bench(model, seed, sizes, options.data, options.results)
            for target in options.targets:
                for epochs in options.epochs_after:
                    case = Case(bench, target, epochs, sizes.train, options.passes, options.quick, tuple(options.rows))
                    for row in compute(case, options.source):
                        results.append(row)
                        place = f"{model} seed {seed} at {target:g}, {epochs} epochs"
                        print(f"{place}: {row['row']}: test {100 * row['test_top1']:.2f}", flush=True)
    print(table(results))
    write_json(options.results.with_suffix(".json"), {"sizes": vars(sizes), "passes": options.passes, "cells": results})


if __name__ == "__main__":
    main()
