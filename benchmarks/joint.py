"""Channels and bits in one search, side by side with 'prune, then quantize', uniform ratios and bits, and random search.

    python -m benchmarks.joint --data FOLDER [--seeds 3] [--workers 2]

Every row starts from the same checkpoint, and ends at 10 % of its bytes and 1.5 % of its bit operations at most (a float has
32 bits), with the same number of evaluations on the search split and the same number of epochs after them, distilled from the
checkpoint. The joint rows search channels and bits together and train once, quantized. `prune, then quantize` divides its
evaluations among several shares of MACs, takes the best of the pruned networks, trains it, chooses its bits by the integer
program and trains again. `uniform x uniform` takes the best share of channels for the same bits everywhere. Every cell is a
JSON file under ``--results`` and is not computed again; a killed benchmark goes on where it stopped. Prints mean and standard
deviation over the seeds, and writes ``joint.json`` beside their folder.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.joint_rows import BYTES, OPERATIONS, QUICK, ROWS, JointBench, JointSizes, Setting
from benchmarks.pruning_cells import Cell, Plan, arguments, read, run, spread
from benchmarks.quantized_cells import delivered
from evaluators.cost import count_costs
from search.output.atomic import write_json

PLAN = Plan("joint", "benchmarks.joint_rows:ROWS", (BYTES,))


def compute(cell: Cell) -> dict[str, Any]:
    """Return a cell's numbers, from its file where it has one."""
    found = read(cell)
    if found is not None:
        return found
    start, used = time.perf_counter(), time.process_time()
    bench: Any = cell.bench
    task = bench.task()
    reference = bench.reference(task)
    baseline = count_costs(reference, task.example_inputs())
    outcome = ROWS[cell.row](Setting(bench, task, reference, cell.path))
    chosen = time.process_time() - used
    _, numbers = delivered(cell, task, reference, outcome.model, outcome.epochs)
    shares = {f"{name}_share": numbers[name] / baseline[name] for name in ("macs", "size_bytes", "bit_operations")}
    result = {**numbers, "choosing_cpu_seconds": chosen, **shares, **outcome.notes}
    if result["size_bytes_share"] > BYTES or result["bit_operations_share"] > OPERATIONS:
        raise RuntimeError(f"{cell.row} exceeds the targets: {result}")
    result |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    write_json(cell.path, result)
    return result


def table(plan: Plan, results: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds: test accuracy less that of the checkpoint, in points, and costs."""
    lines = []
    for model in dict.fromkeys(result["model"] for result in results):
        own = [result for result in results if result["model"] == model]
        dense = {r["seed"]: 100 * r["reference_test_top1"] for r in own}
        lines.append(f"\n{model}: the checkpoint has {spread(list(dense.values()))} % on the test split; points from there,")
        lines.append(f"mean ± standard deviation over {len(dense)} seeds; costs in % of the checkpoint's")
        heads = ("test", "search", "before training", "MACs", "bytes", "BOPs", "CPU s")
        lines.append(f"{'':28}" + "".join(f"{head:>16}" for head in heads))
        for row in dict.fromkeys(result["row"] for result in sorted(own, key=lambda r: list(ROWS).index(r["row"]))):
            found = [r for r in own if r["row"] == row]
            cells = [spread([100 * (r["test_top1"] - r["reference_test_top1"]) for r in found])]
            cells += [spread([100 * r[name] for r in found]) for name in ("search_top1", "search_top1_before")]
            shares = ("macs_share", "size_bytes_share", "bit_operations_share")
            cells += [f"{100 * statistics.fmean(r[name] for r in found):.2f}" for name in shares]
            cells += [f"{statistics.fmean(r['cpu_seconds'] for r in found):.0f}"]
            lines.append(f"{row:28}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, PLAN)
    parser.set_defaults(models=["resnet20"])
    options = parser.parse_args()
    sizes = QUICK if options.quick else JointSizes()
    benches = [
        JointBench(m, seed, sizes, options.data, options.results) for seed in range(options.seeds) for m in options.models
    ]
    run(PLAN, benches, options, compute, table)


if __name__ == "__main__":
    main()
