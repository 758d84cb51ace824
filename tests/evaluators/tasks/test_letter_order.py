"""Drawn texts with a mask: classes follow from the texts, the network takes both, and what fills up tells nothing."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch

from evaluators.tasks.letter_order import LetterOrder, LetterOrderSettings
from evaluators.tasks.measure import measure
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.named_task import NamedTask
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from spaces.channels.check import find_checked_groups

SMALL = LetterOrderSettings(samples=96, search_size=32, test_samples=64, length=16)
NETWORK = {"vocabulary": 27, "outputs": 6, "blocks": 1, "width": 16, "heads": 2, "length": 16}


def whole(split: Any) -> Any:
    return next(iter(LetterOrder(SMALL).batches(split, 1000, None, None)))


def test_the_class_is_the_order_of_three_letters() -> None:
    inputs, targets = whole("test")
    orders = list(permutations((1, 2, 3)))
    for ids, mask, target in zip(inputs["ids"], inputs["mask"], targets, strict=True):
        marks = [token for token in ids.tolist() if 1 <= token <= 3]
        assert tuple(marks) == orders[int(target)]
        assert bool((ids[mask] > 0).all())
        assert not bool(ids[~mask].any())
    lengths = inputs["mask"].sum(1)
    assert (int(lengths.min()), int(lengths.max())) == (4, 16)
    assert set(targets.tolist()) == set(range(6))


def test_splits_are_drawn_from_the_seed_and_share_no_text() -> None:
    given = LetterOrder(SMALL)
    assert [given.size(split) for split in ("train", "search", "test")] == [64, 32, 64]
    texts = torch.cat([whole(split)[0]["ids"] for split in ("train", "search", "test")])
    assert len(texts.unique(dim=0)) == len(texts)
    assert given.fingerprint == LetterOrder(SMALL).fingerprint


def test_an_encoder_takes_ids_and_mask_and_can_become_smaller() -> None:
    data = NamedData("letter_order", SMALL)
    task = build_task(TaskSettings(ModelSettings("spaces.networks.encoder_small", NETWORK), data))
    assert isinstance(task, NamedTask)
    model = task.reference_model().eval()
    assert 0.0 <= measure(model, task, "search")["top1"] <= 1.0
    inputs, _ = whole("search")
    changed = {**inputs, "ids": inputs["ids"].masked_fill(~inputs["mask"], 5)}
    with torch.no_grad():
        torch.testing.assert_close(model(**changed), model(**inputs))
    groups = find_checked_groups(model, task.example_inputs(), forward=task.forward)
    assert 64 in [group.size for group in groups.groups if not group.reason]


@pytest.mark.parametrize(
    ("options", "message"), [({"length": 11}, "length: expected at least 12"), ({"samples": 0}, "samples: ")]
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LetterOrderSettings(**options)
