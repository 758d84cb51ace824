"""Drawn samples: the same from the same seed, targets that follow from the images, and tasks that take them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluators import DATASETS
from evaluators.tasks.drawn_set import DrawnSet, DrawnSettings
from evaluators.tasks.measure import measure
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.named_task import NamedTask
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from evaluators.tasks.shapes.drawing import draw_shapes
from evaluators.tasks.shapes.shape_labels import ShapeLabelsSettings
from evaluators.tasks.shapes.shape_noise import ShapeNoise, ShapeNoiseSettings
from evaluators.tasks.shapes.shape_set import ShapeSettings
from spaces.channels.check import find_checked_groups
from spaces.errors import UnsupportedModelError
from spaces.execution.batch import count_samples, named_tensors
from spaces.registry import lookup

SMALL: dict[str, Any] = {"samples": 48, "search_size": 16, "test_samples": 24}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "shape_masks": ("unet_small", {"width": 4}),
    "shape_sizes": ("digits_cnn", {"width": 4, "classes": 2}),
    "shape_labels": ("digits_cnn", {"width": 4, "classes": 3}),
    "shape_pairs": ("twin_cnn", {"width": 4}),
    "shape_noise": ("diffusion_unet", {"width": 4}),
}
each = pytest.mark.parametrize("name", NETWORKS)


def data(name: str, **options: Any) -> DrawnSet:
    kind = lookup(DATASETS, name, "data set")
    found = kind(kind.Settings(**{**SMALL, **options}))
    assert isinstance(found, DrawnSet)
    return found


def task(name: str, arguments: dict[str, Any] | None = None, **options: Any) -> NamedTask:
    factory, usual = NETWORKS[name]
    model = ModelSettings(f"spaces.networks.{factory}", usual if arguments is None else arguments)
    found = build_task(TaskSettings(model, NamedData(name, data(name, **options).settings)))
    assert isinstance(found, NamedTask)
    return found


def whole(given: DrawnSet, split: Any, generator: torch.Generator | None = None) -> Any:
    return next(iter(given.batches(split, given.size(split), generator, None)))


def test_every_drawn_set_is_tried() -> None:
    assert list(NETWORKS) == [name for name, path in DATASETS.items() if ".shapes." in path]


@each
def test_splits_are_drawn_from_the_seed_and_share_no_image(name: str) -> None:
    given = data(name, calibration_size=8)
    assert [given.size(split) for split in ("train", "search", "calibration", "test")] == [24, 16, 8, 24]
    assert given.fingerprint == data(name, calibration_size=8).fingerprint != data(name, calibration_size=8, seed=1).fingerprint
    images = {split: next(named_tensors(whole(given, split)))[1] for split in ("train", "search", "calibration", "test")}
    rows = torch.cat(list(images.values())).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows) == 72
    assert not torch.equal(images["test"], next(named_tensors(whole(data(name, seed=1), "test")))[1])


@each
def test_inputs_and_targets_stay_together_when_the_order_is_drawn(name: str) -> None:
    given = data(name)
    fixed, drawn = (whole(given, "train", one) for one in (None, torch.Generator().manual_seed(0)))
    places = [tensor.flatten(1) for _, tensor in named_tensors(fixed) if tensor.dim() > 2]
    order = (places[0][:, None] == next(named_tensors(drawn))[1].flatten(1)).all(2).long().argmax(0)
    assert sorted(order.tolist()) == list(range(32)) != order.tolist()
    for (_, one), (_, other) in zip(named_tensors(fixed), named_tensors(drawn), strict=True):
        assert torch.equal(one[order], other)
    assert [count_samples(inputs) for inputs, _ in given.batches("train", 12, torch.Generator(), None)] == [12, 12]
    assert [count_samples(inputs) for inputs, _ in given.batches("train", 12, None, 30)] == [12, 12, 6]
    assert count_samples(given.example()) == 1


@each
def test_the_task_measures_a_network_all_of_whose_parts_can_become_smaller(name: str) -> None:
    given = task(name)
    model = given.reference_model()
    found = measure(model, given, "search")
    assert {given.score_name, "loss"} <= found.keys() == {*given.score_names, "loss"}
    assert all(math.isfinite(value) for value in found.values())
    assert given.score_sign == 1.0
    groups = find_checked_groups(model.eval(), given.example_inputs(), forward=given.forward)
    assert len([group for group in groups.groups if not group.reason]) >= 4


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "shape_masks",
            {"outputs": 4},
            r"expected logits of shape \(1, 3, 16, 16\) for the 3 classes .*got shape \(1, 4, 16, 16\)",
        ),
        ("shape_sizes", {"classes": 1}, r"expected numbers of shape \(1, 2\) for the 2 outputs .*set its number of outputs"),
        ("shape_labels", {"classes": 1}, r"expected logits of shape \(1, 3\) for the 3 labels .*got shape \(1, 1\)"),
    ],
)
def test_a_network_of_other_outputs_is_told_what_was_expected(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        task(name, arguments).reference_model()


def test_the_classes_of_pixels_are_those_of_the_shapes() -> None:
    images, targets = whole(data("shape_masks", noise=0.0), "test")
    assert torch.equal(images[:, 0] > 0.5, targets > 0)
    assert set(targets.unique().tolist()) == {0, 1, 2}
    drawn = draw_shapes(24, 16, torch.Generator().manual_seed(1))
    assert torch.equal(targets == 1, drawn.covered[:, 0])


def test_sizes_of_shapes_follow_from_their_areas() -> None:
    drawn = draw_shapes(400, 32, torch.Generator().manual_seed(0))
    side = drawn.covered[:, 1].flatten(1).sum(1).double().sqrt()
    radius = (1 + drawn.sizes[:, 1]) * 4
    assert float((side - 2 * radius).abs().max()) <= 1.0
    areas = drawn.covered.flatten(2).sum(2)
    assert bool((areas[:, 0] <= math.pi * 8.5**2).all())
    assert bool((areas[:, 2] < areas[:, 1].max()).all())
    assert int(areas.min()) >= 5


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_labels_say_which_shapes_are_there(labels: int) -> None:
    given = data("shape_labels", labels=labels, noise=0.0, test_samples=64)
    images, targets = whole(given, "test")
    assert targets.shape == (64, labels)
    assert given.classes == labels
    empty = images.flatten(1).sum(1) == 0
    assert not bool(targets[empty].any())
    assert 0.3 < float(targets.float().mean()) < 0.7
    of_one = task("shape_labels", {"width": 4, "classes": labels}, labels=labels).labels(targets)
    assert (of_one is None) == (labels > 1)
    assert of_one is None or torch.equal(of_one, targets[:, 0])


def test_pairs_of_one_kind_are_told_from_others() -> None:
    inputs, targets = whole(data("shape_pairs", noise=0.0, test_samples=200, side=32), "test")
    assert isinstance(inputs, tuple)

    def kind(images: Tensor) -> list[str]:
        found = []
        for image in images[:, 0]:
            rows, columns = (image.amax(dim) for dim in (1, 0))
            filled = float(image.sum() / (rows.sum() * columns.sum()))
            found.append("square" if filled == 1.0 else "disc" if filled > 0.6 else "cross")
        return found

    same = [one == other for one, other in zip(*map(kind, inputs), strict=True)]
    assert same == targets.bool().tolist()
    assert 0.4 < sum(same) / len(same) < 0.6


def test_an_image_at_a_step_is_made_of_the_image_and_the_noise() -> None:
    given = data("shape_noise", steps=10)
    assert isinstance(given, ShapeNoise)
    inputs, noise = whole(given, "train")
    kept = given.kept(inputs["time"])[:, None, None, None]
    clean = (inputs["image"] - (1 - kept).sqrt() * noise) / kept.sqrt()
    early = inputs["time"] < 9
    torch.testing.assert_close(clean[early].abs(), torch.ones_like(clean[early]), rtol=0, atol=1e-3)
    shares = given.kept(torch.arange(10))
    assert bool((shares.diff() < 0).all())
    assert 0.0 <= float(shares[-1]) < 1e-6 < 0.95 < float(shares[0]) < 1.0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ShapeSettings, {"side": 18}, "side: expected a multiple of 4"),
        (DrawnSettings, {"samples": 0}, "samples: expected at least 1"),
        (ShapeSettings, {"noise": -1.0}, "noise: expected"),
        (DrawnSettings, {"seed": -1}, "seed: expected"),
        (DrawnSettings, {"mean": (0.5,)}, "mean: is an option of photographs"),
        (DrawnSettings, {"augment": False}, "augment: is an option of photographs"),
        (ShapeLabelsSettings, {"labels": 4}, "labels: expected 1 to 3"),
        (ShapeNoiseSettings, {"steps": 0}, "steps: expected at least 1"),
    ],
)
def test_options_out_of_range_are_refused(kind: type[DrawnSettings], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
