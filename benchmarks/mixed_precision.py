"""Mixed precision side by side: our searches for bits, uniform bits and random search; and, untrained, Sony's toolkit.

    python -m benchmarks.mixed_precision --data FOLDER [--seeds 3] [--workers 2]   (`uv run --with model-compression-toolkit`)

Every row names what its Omega stands on. With ``--optimizer adam``, and a folder of its own for ``--results``, the checkpoint
is trained by Adam, and the rows of second derivatives are added: CN112183742B by the moments of that training (with our order
and draws, with the source's, and with its whole loop, `as written`, where every step trains an epoch and no more epochs follow;
learned steps, corrected biases and distillation are ours, and on in all rows but the toolkit's), n candidates by Optuna's TPE
and random ones by Hutchinson's traces, and integer programs by either.

Every row starts from the same checkpoint and has the bytes of a network with 4, 3 or 2 bits in every layer but the first and
the last, which have 8; inputs and additions have 8 bits. Quantization-aware training (learned steps, distillation from the
checkpoint) lasts 3 epochs, but for `trained along` (the first seed only), whose search trains one more per step, and the rows
that say `not trained` or `raw Omega`. At 2 bits there is nothing to choose. The network of the integer program is exported,
and compared on test images with ONNX Runtime. Every cell is a JSON file under ``--results`` and is not computed again. Prints
mean and standard deviation over the seeds, and writes ``mixed_precision.json`` beside their folder.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.mixed_precision_rows import BY_HESSIAN, QUICK, ROWS, BitBench, BitSizes, Setting
from benchmarks.pruning_cells import Cell, Plan, arguments, read, run, sized, spread
from benchmarks.quantized_cells import delivered
from evaluators.onnx.quantized import stored_integers
from evaluators.onnx.session import open_session
from evaluators.onnx_export import write_onnx
from evaluators.task import Task
from search.output.atomic import write_json
from spaces.quantization.layers import quantized_layers

UNTRAINED = (4.0, 3.0)
EXPORTED = "integer program, by divergence (ours)"
ALONG = "progressive, trained along, by measured adam (ours)"
PLAN = Plan(
    "mixed_precision",
    "benchmarks.mixed_precision_rows:ROWS",
    (4.0, 3.0, 2.0),
    {**dict.fromkeys(ROWS, UNTRAINED), EXPORTED: (4.0, 3.0, 2.0), ALONG: (3.0,)},
    once=(ALONG,),
)


def compute(cell: Cell) -> dict[str, Any]:
    """Return a cell's numbers, from its file where it has one."""
    found = read(cell)
    if found is not None:
        return found
    start, used = time.perf_counter(), time.process_time()
    bench: Any = cell.bench
    task = bench.task()
    reference = bench.reference(task)
    outcome = ROWS[cell.row](Setting(bench, task, reference, cell.target, cell.path))
    chosen = time.process_time() - used
    stored, result = delivered(cell, task, reference, outcome.model, outcome.epochs)
    bits = dict(outcome.candidate.values) if outcome.candidate is not None else None
    result |= {"choosing_cpu_seconds": chosen, "bits": bits, **outcome.notes}
    if cell.row == EXPORTED and bench.seed == 0:
        result |= exported(stored, task, bench.sizes.exported)
    result |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    write_json(cell.path, result)
    return result


def exported(model: nn.Module, task: Task, images: int) -> dict[str, Any]:
    """Return how many predictions of the ONNX file differ, and whether its integers are within the network's bits."""
    inputs, _ = next(iter(task.batches("test", 3, limit=3)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(Path(folder), model, inputs)
        session = open_session(str(path))
        integers, size = stored_integers(path), path.stat().st_size
        differing = seen = 0
        for batch, _ in task.batches("test", 250, limit=images):
            with torch.no_grad():
                expected = model(batch).argmax(1).numpy()
            answered = np.argmax(session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0], axis=1)
            differing, seen = differing + int((answered != expected).sum()), seen + len(batch)
    stored = {name: layer.stored.bits for name, layer in quantized_layers(model).items() if layer.stored is not None}
    within = len(integers) == len(stored)
    for name, (width, low, high) in integers.items():
        bits = stored[name.removesuffix(f".stored.weight_integers_{name[-1]}")]
        within &= -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1) and width == min(w for w in (2, 4, 8) if w >= bits)
    return {"onnx_differing": differing, "onnx_images": seen, "onnx_bits_as_reported": within, "onnx_bytes": size}


def table(plan: Plan, results: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds: test accuracy less that of the checkpoint, in points."""
    lines = []
    for model in dict.fromkeys(result["model"] for result in results):
        own = [result for result in results if result["model"] == model]
        dense = {r["seed"]: 100 * r["reference_test_top1"] for r in own}
        lines.append(f"\n{model}: the checkpoint has {spread(list(dense.values()))} % on the test split; points from there,")
        lines.append(f"mean ± standard deviation over {len(dense)} seeds")
        lines.append(f"{'average bits':60}" + "".join(f"{target:>16g}{'Omega':>10}{'kB':>8}" for target in plan.targets))
        for row in ROWS:
            cells = ""
            for target in plan.targets:
                found = [r for r in own if r["row"] == row and r["target"] == target]
                change = spread([100 * (r["test_top1"] - r["reference_test_top1"]) for r in found])
                omega = _mean([r["omega"] for r in found if "omega" in r], ".4f")
                cells += (
                    f"{change:>16}{omega:>10}{_mean([r['size_bytes'] / 1e3 for r in found if 'size_bytes' in r], '.1f'):>8}"
                )
            lines.append(f"{row:60}{cells}")
        lines += [
            f"ONNX at {r['target']:g} bits: {r['onnx_differing']} of {r['onnx_images']} predictions differ, integers as "
            f"reported: {r['onnx_bits_as_reported']}, {r['onnx_bytes'] / 1e3:.1f} kB"
            for r in own
            if "onnx_images" in r
        ]
    return "\n".join(lines)


def _mean(values: list[float], form: str) -> str:
    return format(statistics.fmean(values), form) if values else "-"


def main() -> None:
    parser = arguments(__doc__, PLAN)
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd", help="of the training behind the checkpoint")
    parser.set_defaults(models=["resnet20"])
    options = parser.parse_args()
    sizes = replace(sized(QUICK if options.quick else BitSizes(), options), adam=options.optimizer == "adam")
    if options.optimizer == "sgd":
        options.rows = [row for row in options.rows if row not in BY_HESSIAN]
    benches = [BitBench(m, seed, sizes, options.data, options.results) for seed in range(options.seeds) for m in options.models]
    run(PLAN, benches, options, compute, table)


if __name__ == "__main__":
    main()
