"""Configurations drawn at random: every option of every kind of stage gets its turn, with a value that looks right."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from evaluators import EVALUATORS
from evaluators.tasks.small_images import DigitsSettings
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from search.algorithms import ALGORITHMS as KNOWN
from search.config.registries import ALGORITHM, EVALUATOR, SPACE, SPARSIFIER, STAGE
from search.stages import STAGES
from search.stages.search.settings import SearchSettings
from spaces import SPACES
from spaces.bit_width import BitWidthSettings
from spaces.channel_mask import ChannelMaskSettings
from spaces.importance.criterion import CRITERIA
from spaces.sparsifiers import SPARSIFIERS

LAYERS = ((), ("*1*",), ("features.*",), ("*.0",), ("*.[03]", "*.8"), ("features.7.*",), ("classifier",))
"""Name patterns; some match nothing in some of the networks."""
SHARES = (0.05, 0.3, 0.5, 0.8, 0.95, 1.0)
NEEDED = {"epochs", "space", "algorithm", "evaluate", "objectives", "sparsifier", "training"}
"""Fields that the code below gives itself."""

OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "DigitsSettings": {
        "root": (None,),
        "search_size": (40, 100, 300),
        "split_seed": (0, 5),
        "train_size": (100, 150, 200),
        "augment": (True, False, ["crop"], ["crop", "flip"], ["flip"]),
        "mean": (None, [0.5], [0.1, 0.2]),
        "std": (None, [0.5]),
    },
    "TrainingSettings": {
        "batch_size": (2, 16, 50, 64, 100, 150),
        "warmup": (0.0, 0.2, 0.9),
        "label_smoothing": (0.0, 0.1, 0.9),
        "distillation": (None, {}, {"weight": 0.0}, {"weight": 1.0, "temperature": 1.0}),
        "early_stop": (None, {}, {"patience": 1}),
        "clip_norm": (None, 0.1, 5.0),
        "clip_value": (None, 0.01),
        "schedule": (
            "one_cycle",
            "cosine",
            "constant",
            {"name": "torch.optim.lr_scheduler.ExponentialLR", "arguments": {"gamma": 0.9}},
        ),
        "loss": (None, None, {"name": "torch.nn.CrossEntropyLoss"}, {"name": "torch.nn.functional.cross_entropy"}),
        "ema": (None, None, {}, {"decay": 0.5}),
        "mixup": (None, None, 0.2),
        "cutmix": (None, None, 1.0),
        "rand_augment": (None, None, {}, {"operations": 1, "magnitude": 3}),
        "erasing": (None, None, 0.3),
        "shards": (None, None, 1),
        "batch_norm": (None, None, "synchronized", "per_rank"),
        "keep_epoch": ("auto", "best", "last"),
        "adapters": (None, None, None, {}, {"rank": 2, "alpha": 4.0, "layers": ["*"]}),
        "train_only": (None, None, None, ["norms", "biases", "head"], ["features.0"], ["head"]),
    },
    "OptimizerSettings": {
        "name": ("sgd", "adamw", "torch.optim.NAdam"),
        "lr": (1e-4, 1e-2, 0.05),
        "momentum": (0.0, 0.9),
        "weight_decay": (0.0, 5e-4),
        "nesterov": (False, True),
        "decay_norms": (True, False),
        "no_decay": (None, ["positions"], ["*.bias"]),
        "rates": (None, {}, {"*.weight": 0.5}),
        "arguments": (None,),
    },
    "ScalingFactorSettings": {
        "strength": (0.0, 1e-4, 1e-2),
        "epsilon": (1e-4, 1e-2),
        "include": LAYERS,
        "exclude": LAYERS,
    },
    "GradientCutSettings": {
        "ratio": (0.0, 0.3, 0.9),
        "ratios": ({}, {"features.0": 0.5}, {"*": 0.3}),
        "macs": (None, 0.1, 0.5, 0.95),
        "exponent": (0.0, 1.0, 2.5),
        "smoothing": (0.0, 0.98),
        "ramp": (0.0, 0.3, 0.5),
        "freeze": (0.0, 0.5, 0.9),
        "decay": (0.6, 1.0),
        "include": LAYERS,
        "exclude": LAYERS,
        "max_ratio": SHARES,
        "round_to": (1, 2, 8),
    },
    "ChannelExplorationSettings": {
        "ratio": (0.1, 0.3, 0.9),
        "macs": (None, 0.1, 0.5, 0.95),
        "regrow": (0.0, 0.3, 0.9),
        "explorations": (1, 3, 20),
        "explore": (0.3, 0.72, 1.0),
        "include": LAYERS,
        "exclude": LAYERS,
        "max_ratio": SHARES,
        "round_to": (1, 2, 8),
    },
    "ProbabilisticSettings": {
        "ratio": (0.0, 0.3, 0.9),
        "ratios": ({}, {"features.0": 0.5}, {"*": 0.3}),
        "macs": (None, 0.1, 0.5, 0.95),
        "shape": ({}, {"depth": 0.5}, {"width": -0.5, "cost": 0.5}),
        "penalty": ("exponential", "linear"),
        "largest": (0.01, 0.2, 1.0),
        "flatness": (0.05, 0.5, 1.0),
        "interval": (None, 1, 3, 100),
        "share": (0.1, 0.5, 1.0),
        "include": LAYERS,
        "exclude": LAYERS,
        "max_ratio": SHARES,
    },
    "ReconstructionSettings": {
        "images": (2, 16, 768),
        "positions": (2, 500, 32768),
        "damping": (1e-6, 1e-2, 1.0),
        "steps": (0, 2),
    },
    "LevelSettings": {"steps": (2, 5, 16), "images": (2, 32), "divergence_images": (2, 16)},
    "ChannelMaskSettings": {
        "compensate": (True, False, "channel"),
        "levels": ({}, {"steps": 3, "images": 16}),
        "round_to": (1, 2, 4, 8, 16),
        "units": ((), ("channels",)),
        "heads_multiple": (1, 2),
        "width_multiple": (1, 2),
        "include": LAYERS,
        "exclude": LAYERS,
        "max_ratio": SHARES,
    },
    "BitWidthSettings": {
        "weight_bits": ([4], [2, 8], [2, 3, 4, 6, 8], [8, 4], [4, 4], [1, 8], {"features.0": [4], "*": [2, 8]}),
        "activation_bits": ([], [8], [4, 6, 8], [2, 8], {"*": [8, 4]}),
        "first_last_bits": (None, 2, 8),
        "include": LAYERS,
        "exclude": LAYERS,
        "percentile": (51.0, 99.9, 100.0),
        "latency": ({}, {"features.0": {"4x8": 1.0}}),
    },
    "JointSettings": {
        "calibration_samples": (1, 64, 256),
        "spaces": (["channel_mask", "bit_width"], ["bit_width", "channel_mask"]),
        "depth": ({}, {"max_removed": 1}),
    },
    "PruningScheduleSettings": {
        "macs": ([0.5], [0.3, 0.7], [0.95]),
        "largest": ([0.05], [0.02, 1.0]),
        "flatness": ([0.25], [0.1, 1.0]),
        "share": ([0.5], [0.1, 1.0]),
        "importance": (["l1"], [*CRITERIA]),
        "groups": (["filters"], ["input_channels"], ["input_channels", "filters"]),
        "draw": (["weight"], ["group"]),
        "depth": ([0.0], [-1.0, 2.0]),
        "width": ([0.0], [-2.0, 1.0]),
        "cost": ([0.5], [-0.5, 0.5]),
        "include": LAYERS,
        "exclude": LAYERS,
        "max_ratio": SHARES,
    },
    "FilterRatioSettings": {
        "macs": (None, 0.2, 0.5, 0.95, 1.0),
        "levels": (2, 5, 20),
        "max_ratio": SHARES,
        "round_to": (1, 2, 8),
        "include": LAYERS,
        "exclude": LAYERS,
        "exponent": (0.0, 2.0),
        "smoothing": (0.0, 0.98),
        "ramp": (0.0, 0.5),
        "freeze": (0.5, 0.9),
        "decay": (0.6, 1.0),
    },
    "DivergenceSettings": {
        "samples": (1, 64),
        "pool": (4, 256),
        "batch_norm_batches": (0, 1),
        "batch_size": (2, 64),
    },
    "AccuracySettings": {
        "batch_norm_batches": (0, 1, 100),
        "batch_size": (2, 50, 256),
    },
    "CostSettings": {"latency": (False, True)},
    "SensitivitySettings": {
        "samples": (2, 32, 500),
        "batch_size": (1, 8),
        "beta": (0.5, 0.999),
        "tolerance": (0.1, 1.0),
        "most_rounds": (2, 8),
    },
    "LatencySettings": {
        "backend": ("onnxruntime", "eager"),
        "threads": (1, 2),
        "batch_size": (1, 4),
        "warmup": (0, 2),
        "repetitions": (20,),
        "seconds": (0.05,),
        "points": (2,),
        "cache": (None,),
        "resource": (None,),
        "address": ("auto",),
    },
    "GeneticSettings": {
        "population": (2, 4, 5),
        "generations": (None, 1, 2),
        "evaluations": (None, 1, 6),
        "offspring": (None, 1, 7),
        "crossover": (0.0, 0.6, 1.0),
        "mutation": (0.0, 0.7, 1.0),
        "elite": (1, 2, 4),
        "tournament": (1, 3, 20),
        "seed_ratios": ([], [1.0], [0.85, 0.2]),
        "racing": (None, {}, {"fidelities": [0.01, 0.5], "keep": 1.0}, {"confidence": 0.0}),
    },
    "OptunaSamplerSettings": {
        "evaluations": (1, 4, 7),
        "batch": (1, 3, 8),
        "startup": (1, 2, 10),
        "population": (2, 3),
        "halving": (None, {}, {"fidelities": [0.5], "keep": 0.3}),
    },
    "EvolutionSettings": {
        "children": (1, 3),
        "generations": (1, 2),
        "switches": (1, 3),
        "preselect": (1, 3),
        "steps": ([[32, 1]], [[16, 2], [32, 1]]),
    },
    "RandomSettings": {"evaluations": (1, 4, 6), "channels": ("importance", "random")},
    "IntegerProgramSettings": {"budgets": (1, 4), "gap": (0.0, 0.1), "nodes": (None, 1, 100), "seconds": (None, 30.0)},
    "ProgressiveSettings": {
        "candidates": (1, 3),
        "layers": (0.0, 0.1, 1.0),
        "steps": (1, 3),
        "refine": (0, 2),
    },
    "DepthSettings": {"max_removed": (None, 1, 3), "include": LAYERS, "exclude": LAYERS},
    "SearchSettings": {
        "target": ({},),
        "rounds": (1, 1, 2),
        "iterations": ([], [], ["90%", "80%"]),
        "passes": (None,),
        "baselines": (
            [],
            ["uniform"],
            ["global_magnitude"],
            ["integer_program"],
            ["random"],
            ["dense_same_training"],
            ["uniform", "random"],
        ),
        "budget": ({}, {"evaluations": 3}, {"evaluations": 1}, {"seconds": 30}, {"seconds": 0.01}),
        "batch": (1, 3, 16),
        "finalists": (None, 1, 2, 9),
        "reconstruct": (False, {}, {"images": 16, "sums": False}),
    },
    "SparseTrainingSettings": {"reconstruct": (False, {}, {"images": 16})},
    "FuseSettings": {"literal_types": (False, True)},
    "ExportSettings": {
        "formats": ([], ["onnx"], ["torch_export"], ["onnx", "torch_export"], ["onnx", "onnx"]),
        "tolerance": (1e-4, 1e-2),
    },
}
"""Values that look right, by the class of the settings and the field; those of flags and of fixed choices are derived."""

LIMITS = {
    "macs": ("<= 70%", "<= 40%", "<= 20%", "<= 5%", "<= 99%"),
    "parameters": ("<= 50%", "<= 10%"),
    "size_bytes": ("<= 60%", "<= 20%", "<= 9%"),
    "bit_operations": ("<= 70%", "<= 8%", "<= 3%", "<= 1%"),
    "latency_ms": ("<= 90%", "<= 50%"),
    "loss": ("<= 200%", "<= 3.0"),
    "omega": ("<= 1.0",),
}
MODELS = (
    {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 4}},
    {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 5}, "init_seed": 3},
    {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 8}},
    {"factory": "tests.integration.connected_networks.functions"},
    {"factory": "tests.integration.connected_networks.modules"},
)
WIDE = {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 16}}
"""For what removes twice: of a few channels, the first time may leave nothing to the second."""
RARE = {"factory": "spaces.networks.resnet20", "arguments": {"in_channels": 1, "width": 4}}
"""A network of many layers, which takes its time."""

ALGORITHMS = {
    "channel_mask": ("genetic", "genetic", "optuna", "random"),
    "filter_ratio": ("genetic", "optuna", "random"),
    "pruning_schedule": ("optuna",),
    "depth": ("genetic", "optuna", "random"),
    "bit_width": ("genetic", "optuna", "random", "integer_program", "progressive"),
    "joint": ("genetic", "genetic", "optuna", "random"),
}
ORDERS = (
    ("train", "{search}", "retrain", "export"),
    ("{search}", "export"),
    ("{search}",),
    ("train", "{sparse}", "{search}", "retrain"),
    ("train", "{sparse}", "{search}", "fuse", "export"),
    ("{cutting}", "retrain", "fuse", "export"),
    ("{cutting}", "{search}", "retrain", "export"),
    ("{channels}", "retrain", "{search}", "retrain", "export"),
    ("{channels}", "{search}", "fuse"),
    ("{channels}", "{cutting}", "{search}"),
    ("train", "{sparse}", "{search}", "export"),
    ("{channels}", "{channels}", "retrain"),
    ("train", "fuse", "export"),
)
RISK = 0.05
"""Chance that something is taken that doesn't go with the rest."""


def registered_settings() -> list[type[Any]]:
    """Return the settings of everything that a drawn configuration may name."""
    registries = ((SPACE, SPACES), (SPARSIFIER, SPARSIFIERS), (EVALUATOR, EVALUATORS), (ALGORITHM, KNOWN), (STAGE, STAGES))
    return [registry.find(name).Settings for registry, names in registries for name in names]


@cache
def kinds() -> dict[str, tuple[str, ...]]:
    """Return the registered names that may stand for a part of an order."""
    spaces = {name: SPACE.find(name) for name in SPACES}
    sparsifiers = {name: SPARSIFIER.find(name) for name in SPARSIFIERS}
    return {
        "{search}": tuple(spaces),
        "{channels}": tuple(name for name, space in spaces.items() if not space.quantizes),
        "{sparse}": tuple(sparsifiers),
        "{cutting}": tuple(name for name, sparsifier in sparsifiers.items() if sparsifier.removes),
    }


@cache
def choices(settings: type[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the values to draw from, by field: of flags and fixed choices all, of others those of :data:`OPTIONS`."""
    hints = get_type_hints(settings)
    derived = {entry.name: _all_of(hints[entry.name]) for entry in fields(settings) if entry.name not in NEEDED}
    return {name: values for name, values in derived.items() if values} | OPTIONS.get(settings.__name__, {})


def _all_of(hint: Any) -> tuple[Any, ...]:
    if hint is bool:
        return (False, True)
    return get_args(hint) if get_origin(hint) is Literal else ()


def draw(seed: int) -> dict[str, Any]:
    """Return the configuration of a seed: tiny, and right as far as one setting by itself can tell."""
    return _Draw(random.Random(seed)).config(f"drawn-{seed}")


class _Draw:
    """One configuration being drawn."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.share = rng.choice((0.05, 0.15, 0.3))
        """Chance of an option to be given at all."""

    def config(self, name: str) -> dict[str, Any]:
        data = {"name": "digits", "search_size": 100, "train_size": 200, **self.options(DigitsSettings)}
        order = self.rng.choice(ORDERS)
        if self.rng.random() < RISK:
            order = tuple(self.rng.sample(order, len(order)))
        model = RARE if self.rng.random() < RISK else self.rng.choice(MODELS)
        if sum(part in kinds() for part in order) > 1:
            model = WIDE
        execution = {"device": self.rng.choice(("auto", "cpu"))} if self.rng.random() < self.share else {}
        if self.rng.random() < self.share:
            execution["asynchronous"] = True
        return {
            "name": name,
            "seed": self.rng.randrange(5),
            "task": {"model": model, "data": data},
            "execution": execution,
            "stages": [self.stage(part) for part in order],
        }

    def options(self, settings: type[Any]) -> dict[str, Any]:
        """Return some of a class's options."""
        return {name: self.rng.choice(values) for name, values in choices(settings).items() if self.rng.random() < self.share}

    def stage(self, part: str) -> dict[str, Any]:
        kind = self.rng.choice(kinds()[part]) if part in kinds() else part
        if part in ("{search}", "{channels}"):
            return {"search": self.search(kind)}
        if part in ("{sparse}", "{cutting}"):
            sparsifier = {"name": kind, **self.options(SPARSIFIER.find(kind).Settings)}
            return {"sparse_training": {"sparsifier": sparsifier, **self.training()}}
        if kind in ("train", "retrain"):
            options = self.training()
            if kind == "train" and self.rng.random() > RISK:
                options.pop("distillation", None)
            return {kind: options}
        plain: dict[str, Any] = {"formats": ["onnx"]} if kind == "export" else {}
        return {kind: {**plain, **self.options(STAGE.find(kind).Settings)}}

    def training(self) -> dict[str, Any]:
        optimizer = {"name": "sgd", "lr": 0.05, **self.options(OptimizerSettings)}
        options = {"batch_size": 50, **self.options(TrainingSettings)}
        return {"epochs": self.rng.choice((1, 1, 2)), **options, "optimizer": optimizer}

    def space(self, kind: str) -> dict[str, Any]:
        options = self.options(SPACE.find(kind).Settings)
        if kind == "joint":
            options |= {"channels": self.options(ChannelMaskSettings), "bits": self.options(BitWidthSettings)}
            options["bits"].pop("latency", None)
        return {"name": kind, **options}

    def search(self, kind: str) -> dict[str, Any]:
        rng = self.rng
        anything = sorted(KNOWN)
        algorithm = rng.choice(ALGORITHMS[kind] if rng.random() > RISK else anything)
        quantizes = kind in ("bit_width", "joint")
        omega = algorithm in ("integer_program", "progressive") or rng.random() < (0.4 if quantizes else RISK / 2)
        wanted = {"omega": omega, "accuracy": True, "cost": True, "latency": rng.random() < 0.12}
        names = [name for name in wanted if wanted[name]]
        if rng.random() < RISK:
            names.remove(rng.choice(names))
        space = self.space(kind)
        settings: dict[str, Any] = {
            "space": space,
            "algorithm": {"name": algorithm, **_small(algorithm), **self.options(ALGORITHM.find(algorithm).Settings)},
            "evaluate": [{name: self.evaluator(name)} for name in names],
            **self.options(SearchSettings),
        }
        trains = kind == "pruning_schedule" or space.get("method") == "gradient_cut" or algorithm == "progressive"
        if (trains and rng.random() > RISK) or rng.random() < 0.25:
            settings["training"] = self.training()
        if settings["algorithm"].get("halving") is not None and rng.random() > RISK:
            settings["algorithm"] |= {"batch": 3, "evaluations": 8}
        if isinstance(count := settings.get("finalists"), int):
            settings["finalists"] = {"count": count, "training": self.training()}
        measured = {"accuracy": ("top1", "loss"), "cost": ("macs", "size_bytes", "bit_operations", "parameters")}
        measured |= {"omega": ("omega",), "latency": ("latency_ms",)}
        known = [metric for name in names for metric in measured[name]]
        costs = [metric for metric in known if metric in ("macs", "size_bytes", "bit_operations", "parameters", "latency_ms")]
        first = rng.choice(("top1", "top1", "top1", "loss", "omega")) if omega else rng.choice(("top1", "top1", "loss"))
        objectives = {first: "maximize" if first == "top1" else "minimize"}
        for metric in rng.sample(known, min(len(known), rng.choice((0, 0, 1, 2)))):
            objectives.setdefault(metric, "maximize" if metric == "top1" else "minimize")
        settings["objectives"] = objectives
        aimed = costs if rng.random() > RISK else [metric for metric in known if metric in LIMITS]
        count = rng.choice((0, 1, 1, 2)) if algorithm not in ("integer_program", "progressive") else rng.choice((1, 1, 2))
        settings["target"] = {metric: rng.choice(LIMITS[metric]) for metric in rng.sample(aimed, min(len(aimed), count))}
        return settings

    def evaluator(self, name: str) -> dict[str, Any]:
        options = self.options(EVALUATOR.find(name).Settings)
        if name == "latency":
            options |= {"repetitions": 20, "seconds": 0.05, "points": 2}
        if name == "omega":
            options = {"samples": 32, "most_rounds": 4, **options}
        return options


def _small(algorithm: str) -> Mapping[str, Any]:
    return {
        "genetic": {"population": 4, "generations": 2, "elite": 1},
        "optuna": {"evaluations": 4},
        "random": {"evaluations": 4},
        "progressive": {"candidates": 2, "indicator": "equal_saving", "steps": 2},
        "integer_program": {"budgets": 3},
    }[algorithm]


def undrawn() -> list[str]:
    """Return the options that no drawn configuration gives, as ``Class.field``."""
    found = []
    for settings in registered_settings():
        known = {**choices(settings), **(choices(TrainingSettings) if issubclass(settings, TrainingSettings) else {})}
        found += [
            f"{settings.__name__}.{entry.name}"
            for entry in fields(settings)
            if entry.name not in known and entry.name not in NEEDED and entry.name not in ("optimizer", "channels", "bits")
        ]
    return found
