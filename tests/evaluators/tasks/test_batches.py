"""Places of the samples of every batch."""

from __future__ import annotations

import torch

from evaluators.tasks.batches import batch_places


def test_the_fixed_order_has_every_sample_and_an_incomplete_batch() -> None:
    assert [places.tolist() for places in batch_places(5, 2, None)] == [[0, 1], [2, 3], [4]]
    assert list(batch_places(0, 2, None)) == []


def test_a_drawn_order_has_complete_batches_alone_and_repeats_by_its_seed() -> None:
    def drawn(seed: int) -> list[list[int]]:
        return [places.tolist() for places in batch_places(7, 3, torch.Generator().manual_seed(seed))]

    assert [len(places) for places in drawn(0)] == [3, 3]
    assert len({place for places in drawn(0) for place in places}) == 6
    assert drawn(0) == drawn(0) != drawn(1)
