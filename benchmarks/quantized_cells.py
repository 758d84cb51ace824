"""What the cells of benchmarks of quantized networks have in common: the training, and the numbers that each records."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from benchmarks.pruning_bench import CPU, Bench
from benchmarks.pruning_cells import Cell
from evaluators.cost import count_costs
from evaluators.task import Task
from evaluators.tasks.measure import measure
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from spaces.quantization.record import is_quantized, pack_weights

QAT_LR = 0.02


def quantized_training(bench: Bench[Any], epochs: int) -> TrainingSettings:
    """Return the settings of quantization-aware training; with learned steps of few bits a gradient may be very large."""
    optimizer = OptimizerSettings("sgd", lr=QAT_LR * bench.sizes.batch / 64, momentum=0.9, weight_decay=1e-4, decay_norms=False)
    return dataclasses.replace(bench.training(epochs, QAT_LR, distilled=True), optimizer=optimizer, clip_norm=1.0)


def delivered(cell: Cell, task: Task, reference: nn.Module, model: nn.Module, epochs: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train a row's network for so many epochs, and return it as it would be stored, with what every cell records of it."""
    bench, before = cell.bench, measure(model, task, "search")
    if epochs:
        checkpoint = bench.epochs_of(cell.path)
        settings = quantized_training(bench, epochs)
        train(model, task, settings, seed=bench.seed, device=CPU, teacher=reference, checkpoint=checkpoint)
        checkpoint.path.unlink(missing_ok=True)
    stored = pack_weights(model) if is_quantized(model) else model
    return stored, {
        "model": bench.model,
        "seed": bench.seed,
        "row": cell.row,
        "target": cell.target,
        "reference_test_top1": bench.reference_top1(task, reference),
        "search_top1_before": before["top1"],
        "search_top1": measure(stored, task, "search")["top1"],
        "test_top1": measure(stored, task, "test")["top1"],
        **(count_costs(stored, task.example_inputs()) if stored is not model else {}),
    }
