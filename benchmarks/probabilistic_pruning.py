"""Probabilistic pruning side by side: ours, one-shot L1, gradual magnitude pruning, Torch-Pruning; the searched schedule.

    python -m benchmarks.probabilistic_pruning --data FOLDER [--models resnet20 vgg_small] [--seeds 3] [--workers 2]

Every row starts from the same checkpoint, meets the same MACs target, and trains as many epochs after the checkpoint, with the
same optimizer, schedule, augmentation and distillation. Ours and the two after it prune the same numbers of channels. The
paper's t = 180, and the searched schedule, have the first seed only; a search's trials are not counted in its final run, which
is as long as every other. Two rows are longer, and named so: the paper's A and u with t = 18, a tenth of its own, until every
layer has reached its ratio and then as many epochs as every row; and one-shot L1, trained for 2,700 steps more than the others.
Every cell is a JSON file under ``--results`` and is not computed again; a killed benchmark goes on where it stopped.
``--overhead`` measures what the sparsifier adds to a training step, instead.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.probabilistic_rows import AS_LONG, ONCE, OURS, QUICK, TO_THE_END, PruningSizes
from benchmarks.pruning_bench import CPU, Bench
from benchmarks.pruning_cells import Plan, arguments, run, sized
from evaluators.training.layout import channels_last
from evaluators.training.optimizers import make_optimizer
from search.output.atomic import write_json
from spaces.execution.batch import to_device
from spaces.sparsifiers.probabilistic import Probabilistic

LONG = {TO_THE_END: (0.25,), AS_LONG: (0.25,)}
PLAN = Plan("probabilistic_pruning", "benchmarks.probabilistic_rows:ROWS", (0.5, 0.25), only=LONG, once=ONCE)
STEPS = 40
INTERVALS = (10, 1)
"""Long enough trainings have the first or more; the rows here, of few steps, have the second."""


def overhead(bench: Bench[PruningSizes], interval: int) -> dict[str, float]:
    """Return the milliseconds of a training step without the sparsifier, of the sparsifier's part, and its share of the step.

    All layers are being pruned. CPU time: of the step the median, of the sparsifier's part the mean, since it has more to do
    where probabilities are updated. Mixed precision as the rows have it.

    Args:
        bench: Model and data.
        interval: Steps between two updates.
    """
    from evaluators.training.hardware import autocast

    task = bench.task()
    model, settings = task.reference_model().train(), bench.training(bench.sizes.epochs, 0.01, distilled=False)
    sparsifier = Probabilistic(replace(OURS, interval=interval))
    sparsifier.trace(model, task.example_inputs(), task.forward)
    sparsifier.start(model, bench.sizes.epochs * (bench.sizes.train // settings.batch_size))
    optimizer = make_optimizer(model, settings.optimizer)
    sparsifier.bind(optimizer)
    inputs, targets = next(iter(task.batches("train", settings.batch_size, torch.Generator().manual_seed(0))))
    inputs, context = to_device(inputs, CPU, channels_last=True), autocast(settings.autocast, CPU)
    whole, part = [], []
    with channels_last(model, wanted=True):
        for _ in range(STEPS):
            start = time.process_time()
            sparsifier.before_forward(inputs, targets)
            before = time.process_time()
            with context:
                loss = task.loss(task.forward(model, inputs), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            ready = time.process_time()
            sparsifier.after_backward()
            held = time.process_time()
            optimizer.step()
            stepped = time.process_time()
            sparsifier.after_step()
            end = time.process_time()
            part.append((before - start) + (held - ready) + (end - stepped))
            whole.append(end - start - part[-1])
    half = STEPS // 2  # At first all probabilities are 1.
    step, added = 1e3 * statistics.median(whole[half:]), 1e3 * statistics.fmean(part[half:])
    return {"step_ms": step, "sparsifier_ms": added, "share": added / step}


def main() -> None:
    parser = arguments(__doc__, PLAN)
    parser.add_argument("--overhead", action="store_true", help="measure the sparsifier's part of a training step, and no more")
    options = parser.parse_args()
    sizes = sized(QUICK if options.quick else PruningSizes(), options)
    benches = [Bench(m, seed, sizes, options.data, options.results) for seed in range(options.seeds) for m in options.models]
    if options.overhead:
        torch.set_num_threads(1)
        found = {
            f"{bench.model}, updates every {interval} steps": overhead(bench, interval)
            for bench in benches
            if bench.seed == 0
            for interval in INTERVALS
        }
        path: Path = options.results / "overhead.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        print(json.dumps(found, indent=1))
        return
    run(PLAN, benches, options)


if __name__ == "__main__":
    main()
