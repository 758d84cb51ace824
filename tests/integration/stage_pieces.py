"""Stages of a second each, from which the tests put pipelines together."""

from __future__ import annotations

HEAD = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
"""
_TRAINED = "epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.05}"
_MEASURED = "evaluate: [{accuracy: {batch_norm_batches: 1}}, cost]"
PIECES = {
    "train": f"train: {{{_TRAINED}}}",
    "retrain": f"retrain: {{{_TRAINED}, distillation: {{}}}}",
    "scaling": f"sparse_training: {{sparsifier: {{name: scaling_factor, strength: 1.0e-3}}, {_TRAINED}}}",
    "probabilistic": (
        f"sparse_training: {{sparsifier: {{name: probabilistic, macs: 0.7, share: 0.5, draw: group}}, {_TRAINED}}}"
    ),
    "gradient_cut": f"sparse_training: {{sparsifier: {{name: gradient_cut, macs: 0.7}}, {_TRAINED}}}",
    "channels": (
        f"search: {{space: channel_mask, algorithm: {{name: genetic, population: 4, generations: 2, elite: 1}}, {_MEASURED}, "
        'objectives: {top1: maximize}, target: {macs: "<= 70%"}, batch: 4}'
    ),
    "channels_optuna": (
        f"search: {{space: channel_mask, algorithm: {{name: optuna, evaluations: 4}}, {_MEASURED}, "
        "objectives: {top1: maximize, macs: minimize}, batch: 4}"
    ),
    "bits": (
        f"search: {{space: {{name: bit_width, weight_bits: [4, 8], activation_bits: [8]}}, algorithm: {{name: random, "
        f"evaluations: 4}}, {_MEASURED}, objectives: {{top1: maximize}}, batch: 4}}"
    ),
    "progressive": (
        "search: {space: {name: bit_width, weight_bits: [4, 8], activation_bits: [8]}, algorithm: {name: progressive, "
        "candidates: 2, indicator: equal_saving, steps: 1}, "
        "evaluate: [{omega: {sensitivity: adam, samples: 32, compare: false}}, accuracy, cost], "
        f'objectives: {{top1: maximize}}, target: {{bit_operations: "<= 6%"}}, training: {{{_TRAINED}}}}}'
    ),
    "schedule": (
        f"search: {{space: {{name: pruning_schedule, macs: [0.7]}}, algorithm: {{name: optuna, evaluations: 3}}, {_MEASURED}, "
        f"objectives: {{top1: maximize}}, batch: 3, training: {{{_TRAINED}}}}}"
    ),
    "filters": (
        "search: {space: {name: filter_ratio, per: layer, macs: 0.7}, algorithm: {name: genetic, population: 4, "
        f"generations: 2, elite: 1, racing: null}}, {_MEASURED}, objectives: {{top1: maximize}}, batch: 4, "
        f"training: {{{_TRAINED}}}}}"
    ),
    "joint": (
        "search: {space: {name: joint, bits: {weight_bits: [4, 8], activation_bits: [8]}, calibration_samples: 64}, algorithm: "
        f"{{name: genetic, population: 4, generations: 2, elite: 1}}, {_MEASURED}, objectives: {{top1: maximize}}, "
        'target: {size_bytes: "<= 20%"}, batch: 4}'
    ),
    "fuse": "fuse: {}",
    "export": "export: {formats: [onnx]}",
}
"""A stage by what it does."""


def pipeline(*names: str) -> str:
    """Return the configuration with these stages."""
    return HEAD + "".join(f"  - {PIECES[name]}\n" for name in names)
