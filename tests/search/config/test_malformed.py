"""A hundred malformed configurations and more, each refused with the place and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluators import EVALUATORS
from search.config import load
from search.config.document import ConfigError, to_yaml
from search.pipeline.rehearsal import rehearse
from spaces.errors import SecateursError
from tests.search.config.mutations import Mutation, mutations

TRAINING = {"epochs": 1, "batch_size": 50}
SEARCH: dict[str, Any] = {
    "space": "channel_mask",
    "algorithm": {"name": "random", "evaluations": 4},
    "evaluate": ["accuracy", "cost"],
    "objectives": {"top1": "maximize"},
}
BITS = {**SEARCH, "space": {"name": "bit_width", "weight_bits": [4, 8]}}


def config(*stages: dict[str, Any], data: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    """Return a configuration with these stages on a few digits."""
    model = {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 4, **rest.pop("arguments", {})}}
    known = {"name": "digits", "search_size": 100, "train_size": 200, **(data or {})}
    return {"name": "tiny", "task": {"model": model, "data": known}, "stages": list(stages), **rest}


def search(**changes: Any) -> dict[str, Any]:
    """Return a search for channels with these changes."""
    return {"search": {**SEARCH, **changes}}


def bits(**changes: Any) -> dict[str, Any]:
    """Return a search for bits with these changes."""
    return {"search": {**BITS, **changes}}


def write(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(to_yaml(data))
    return path


@pytest.mark.parametrize("mutation", mutations(110), ids=lambda mutation: mutation.name)
def test_a_mistake_is_refused_with_its_place(tmp_path: Path, mutation: Mutation) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, mutation.data))
    around = [key for key in mutation.place[:-1] if key not in EVALUATORS]
    found = [[key for key in fault.path if key not in EVALUATORS] for fault in caught.value.faults]
    assert any(path[: len(around)] == around for path in found), str(caught.value)
    assert all(len(fault.message) > 10 for fault in caught.value.faults)
    assert "line " in str(caught.value)


TRAIN = {"train": TRAINING}
RETRAIN = {"retrain": TRAINING}
EXPORT = {"export": {}}
SPARSE = {"sparse_training": {"sparsifier": "scaling_factor", **TRAINING}}
SHAPES = {
    "task": {"class": "examples.shape_segmentation.ShapeSegmentation", "arguments": {"width": 2, "side": 16, "samples": 64}}
}
RAY = {"executor": "ray", "workers": 2}
MEASURED = ["accuracy", "cost", "latency"]
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "retrain first": (config(RETRAIN, search()), "stages.0: retrain trains the network that a search leaves"),
    "distillation without a teacher": (
        config({"train": {**TRAINING, "distillation": {}}}, search()),
        "stages.0.train.distillation: distillation learns from the network that enters the first compression",
    ),
    "sparse training last": (config(search(), SPARSE), "stages.1: sparse_training prepares a search"),
    "fuse, then train": (config({"fuse": {}}, TRAIN), "stages.0: fuse merges for inference only, and train"),
    "fuse, then bits": (config({"fuse": {}}, bits()), "stages.0: fuse merges for inference only, and search"),
    "export, then search": (config(EXPORT, search()), "stages.0: export must be the last stage"),
    "two exports": (config(search(), EXPORT, EXPORT), "stages.1: export must be the last stage"),
    "bits, then channels": (config(bits(), search()), "stages.1.search.space: "),
    "bits, then sparse training": (config(bits(), SPARSE, bits()), "stages.1.sparse_training.sparsifier: "),
    "bits twice": (config(bits(), bits()), "stages.1.search.space: "),
    "timed beside other trials": (
        config(search(evaluate=MEASURED), execution=RAY),
        "evaluate.2.latency: trials in other workers",
    ),
    "latency told twice": (
        config(search(evaluate=["accuracy", {"cost": {"latency": True}}, "latency"])),
        "evaluate.2: latency measures 'latency_ms', which an evaluator before it measures too",
    ),
    "genetic with too few evaluations": (
        config(search(algorithm={"name": "genetic", "population": 9}, budget={"evaluations": 3})),
        "budget.evaluations: expected at least 9, the population of 9",
    ),
    "halving with too few evaluations": (
        config(
            search(
                space="pruning_schedule",
                algorithm={"name": "optuna", "evaluations": 14, "halving": {}},
                budget={"evaluations": 10},
                training=TRAINING,
            )
        ),
        "budget.evaluations: expected at least 14, one batch with all its rungs",
    ),
    "progressive with too few evaluations": (
        config(
            bits(
                algorithm={"name": "progressive", "candidates": 4},
                evaluate=["omega", "accuracy", "cost"],
                target={"size_bytes": "<= 20%"},
                budget={"evaluations": 5},
                training=TRAINING,
            )
        ),
        "budget.evaluations: expected at least 6, the start, the candidates of one step and the best of them",
    ),
    "a batch of more than all for candidates": (
        config(search(training={**TRAINING, "batch_size": 5000})),
        "stages.0.search.training.batch_size: expected at most",
    ),
    "a batch of more than all for finalists": (
        config(search(finalists={"count": 2, "training": {**TRAINING, "batch_size": 5000}})),
        "stages.0.search.finalists.training.batch_size: expected at most",
    ),
    "only costs": (config(search(objectives={"macs": "minimize"})), "objectives: seeks small costs only"),
    "latency without its evaluator": (config(search(target={"latency_ms": "<= 50%"})), "no evaluator measures 'latency_ms'"),
    "omega without its evaluator": (config(bits(objectives={"omega": "minimize"})), "no evaluator measures 'omega'"),
    "omega of channels": (
        config(search(evaluate=["omega", "accuracy", "cost"], objectives={"omega": "minimize"})),
        "search.objectives puts omega first",
    ),
    "progressive over channels": (
        config(search(algorithm="progressive", evaluate=["omega", "accuracy", "cost"])),
        "0-search: ",
    ),
    "integer program over channels": (config(search(algorithm="integer_program")), "0-search: "),
    "integer program without a budget": (config(bits(algorithm="integer_program")), "expected a target on a cost"),
    "a table over schedules": (
        config(
            search(
                space="pruning_schedule",
                algorithm={"name": "optuna", "evaluations": 2},
                training=TRAINING,
                evaluate=["accuracy", {"latency": {"mode": "table"}}],
            )
        ),
        "can't add up the latency",
    ),
    "a schedule without training": (
        config(search(space="pruning_schedule", algorithm={"name": "optuna", "evaluations": 2})),
        "expected search.training",
    ),
    "a target out of reach": (config(search(target={"macs": "<= 0.01%"})), "the smallest network in this space has"),
    "a target that is met": (config(search(target={"macs": "<= 1e12"})), "within <= 1000000000000.0"),
    "a baseline without a target": (config(search(baselines=["uniform"])), "baseline needs a target"),
    "nothing included": (
        config(search(space={"name": "channel_mask", "include": ["nowhere*"]})),
        "0-search: the name pattern 'nowhere*' matches no layer of the network; nearest: '",
    ),
    "no such layer to quantize": (
        config(search(), bits(space={"name": "bit_width", "include": ["nowhere*"]})),
        "1-search: the name pattern 'nowhere*' matches no layer of the network; nearest: '",
    ),
    "a schedule to what is out of reach": (
        config(
            search(
                space={"name": "pruning_schedule", "macs": [0.2], "max_ratio": 0.1},
                algorithm={"name": "optuna", "evaluations": 2},
                training=TRAINING,
            )
        ),
        "0-search: 0.2 of the MACs are out of reach",
    ),
    "all excluded": (config(search(space={"name": "channel_mask", "exclude": ["*"]})), "nothing in this network can be pruned"),
    "sparse training of nothing": (
        config(
            {"sparse_training": {"sparsifier": {"name": "probabilistic", "exclude": ["features.*"]}, **TRAINING}},
            search(),
        ),
        "0-sparse_training: nothing of this network is to be pruned: excluded by the pattern 'features.*'",
    ),
    "no filter to cut": (
        config({"sparse_training": {"sparsifier": {"name": "gradient_cut", "exclude": ["*"]}, **TRAINING}}, search()),
        "0-sparse_training: no filter of this network can be cut: ",
    ),
    "ratios of nothing": (
        config(search(space={"name": "filter_ratio", "exclude": ["*"]})),
        "0-search: ",
    ),
    "schedules of nothing": (
        config(
            search(
                space={"name": "pruning_schedule", "exclude": ["*"]},
                algorithm={"name": "optuna", "evaluations": 2},
                training=TRAINING,
            )
        ),
        "0-search: nothing in this network can be pruned",
    ),
    "joint of nothing": (config(search(space={"name": "joint", "channels": {"exclude": ["*"]}})), "0-search: nothing in"),
    "bits of nothing": (config(search(space={"name": "bit_width", "exclude": ["*"]})), "0-search: "),
    "scales of nothing": (
        config({"sparse_training": {"sparsifier": {"name": "scaling_factor", "exclude": ["*"]}, **TRAINING}}, search()),
        "0-sparse_training: ",
    ),
    "latency without a table": (
        config(search(space="joint", evaluate=["accuracy", {"cost": {"latency": True}}])),
        "0-search: cost: latency needs a table",
    ),
    "latency where there is no runtime": (
        config(search(evaluate=["accuracy", "cost", {"latency": {"device": "cuda"}}])),
        "0-search: latency.device: cuda in ONNX Runtime needs",
    ),
    "classes compared where there are none": (
        {
            **config({"sparse_training": {"sparsifier": "gradient_cut", "epochs": 1, "batch_size": 32}}),
            **SHAPES,
        },
        "0-sparse_training: importance by RelevanceLoss compares classes: expected class labels, and the task has none",
    ),
    "rounding to more than there is": (
        config(search(space={"name": "channel_mask", "round_to": 1024})),
        "nothing in this network can be pruned",
    ),
    "a batch of more than all": (
        config({"train": {**TRAINING, "batch_size": 5000}}),
        "stages.0.train.batch_size: expected at most",
    ),
    "more classes than outputs": (config(search(), arguments={"classes": 7}), "classes"),
    "channels that do not fit": (config(search(), arguments={"in_channels": 3}), "forward pass"),
    "more samples than there are": (config(search(), data={"search_size": 10**6}), "search_size"),
    "data that is not there": (config(search(), data={"name": "cifar10", "root": "/nowhere"}), "cifar10"),
    "tied bits without any in common": (
        config(bits(space={"name": "bit_width", "weight_bits": [2], "activation_bits": [8], "tie": "layer"})),
        "space.tie: ",
    ),
    "a table of latency with holes": (
        config(bits(space={"name": "bit_width", "weight_bits": [4], "latency": {"stem": {"4x8": 1.0}}})),
        "space.latency has no entry",
    ),
    "no second to spend": (config(search(budget={"seconds": 0})), "seconds must be above 0"),
    "a device that is not there": (config(search(), execution={"device": "cuda:77"}), "execution.device: cuda:77 is not there"),
    "an Apple device": (config(search(), execution={"device": "mps"}), "execution.device: mps is not there"),
    "an Intel device": (config(search(), execution={"device": "xpu:1"}), "execution.device: xpu:1 is not there"),
    "more workers than a machine carries": (
        config(search(), execution={"executor": "ray", "workers": 10_000}),
        "execution.workers: 10,000 workers do not fit on this machine",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    data, expected = CONTRADICTIONS[name]
    with pytest.raises(SecateursError) as caught:
        list(rehearse(load(write(tmp_path, data))))
    assert expected in str(caught.value)


def test_a_sampler_that_breeds_nothing_needs_no_budget_for_a_generation(tmp_path: Path) -> None:
    few = search(algorithm={"name": "optuna", "evaluations": 8}, budget={"evaluations": 3})
    assert list(rehearse(load(write(tmp_path, config(few)))))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": 1}, "stages.0.search.reconstruct.images: expected at least 2, got 1"),
        (
            {"imagez": 9},
            "stages.0.search.reconstruct.imagez: unknown key; did you mean 'images'? "
            "known: images, positions, damping, sums, steps",
        ),
        (True, "expected a mapping with keys of: images, positions, damping, sums, steps or false, got True"),
    ],
)
def test_settings_that_false_switches_off_are_one_fault(tmp_path: Path, given: Any, words: str) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(to_yaml(config(search(reconstruct=given))))
    with pytest.raises(ConfigError, match="1 error\n") as error:
        load(path)
    assert words in str(error.value)
