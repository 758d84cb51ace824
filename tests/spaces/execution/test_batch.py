"""Batches of any nesting: every container is moved, cut, repeated, joined and counted by its samples."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from spaces.execution.batch import (
    BatchError,
    count_samples,
    describe,
    entries,
    first_tensor_of,
    in_type,
    join,
    map_tensors,
    named_tensors,
    not_finite,
    plain_tensors,
    reorder,
    repeat,
    select,
    single_samples,
    to_device,
)
from spaces.execution.forward import call


class Pair(NamedTuple):
    """Two entries by position and by name."""

    image: Tensor
    time: Tensor


@dataclass(frozen=True)
class Record:
    """Entries of a dataclass."""

    image: Tensor
    note: str = "as it is"


class Named(Tensor):
    """A subclass, as images of torchvision are."""


ROWS = torch.arange(12.0).reshape(4, 3)
IDS = torch.arange(4)

NESTINGS: dict[str, Any] = {
    "a tensor": ROWS,
    "a tuple": (ROWS, IDS),
    "a mapping": {"ids": IDS, "rows": ROWS, "nothing": None, "number": 3},
    "another mapping": UserDict({"ids": IDS, "mask": IDS > 1}),
    "an ordered mapping": OrderedDict(ids=IDS, rows=ROWS),
    "a named tuple": Pair(ROWS, IDS),
    "a dataclass": Record(ROWS),
    "a list with an entry per sample": [row[: int(length)] for row, length in zip(ROWS, (3, 1, 2, 3), strict=True)],
    "a list of mappings in a mapping": {"boxes": [{"box": row} for row in ROWS], "ids": IDS},
    "deep": ({"a": (ROWS, {"b": IDS})}, None),
    "with what all samples share": {"ids": IDS, "scale": torch.tensor(2.0), "positions": torch.arange(7)},
}


def values(batch: Any) -> list[list[float]]:
    return [tensor.double().flatten().tolist() for _, tensor in named_tensors(batch)]


@pytest.mark.parametrize("kind", NESTINGS)
def test_samples_are_counted_cut_repeated_ordered_and_joined_again(kind: str) -> None:
    batch = NESTINGS[kind]
    assert count_samples(batch) == 4
    singles = list(single_samples(batch))
    assert [count_samples(single) for single in singles] == [1] * 4
    assert values(join(singles)) == values(batch)
    assert values(join([select(batch, 0, 3), select(batch, 3, 9)])) == values(batch)
    assert count_samples(repeat(batch, 3)) == 12
    assert values(select(repeat(batch, 3), 3, 4)) == values(select(batch, 1, 2))
    order = torch.tensor([2, 0])
    assert values(reorder(batch, order)) == values(join([select(batch, 2, 3), select(batch, 0, 1)]))


@pytest.mark.parametrize("kind", NESTINGS)
def test_changes_keep_the_structure(kind: str) -> None:
    batch = NESTINGS[kind]
    changed = map_tensors(lambda tensor: tensor + 1, batch)
    assert values(map_tensors(lambda tensor: tensor - 1, changed)) == values(batch)
    assert [name for name, _ in named_tensors(changed)] == [name for name, _ in named_tensors(batch)]
    moved = to_device(batch, torch.device("meta"))
    assert {tensor.device.type for _, tensor in named_tensors(moved)} == {"meta"}
    assert {tensor.dtype for _, tensor in named_tensors(in_type(batch, torch.float64))} <= {
        torch.float64,
        torch.int64,
        torch.bool,
    }


def test_containers_keep_their_kind_and_what_is_no_tensor_stays() -> None:
    assert isinstance(map_tensors(torch.clone, Pair(ROWS, IDS)), Pair)
    assert map_tensors(torch.clone, Record(ROWS)).note == "as it is"
    mapping = NESTINGS["a mapping"]
    found = select(mapping, 1, 2)
    assert (found["nothing"], found["number"]) == (None, 3)
    assert type(plain_tensors({"a": ROWS.as_subclass(Named)})["a"]) is Tensor
    shared = select(NESTINGS["with what all samples share"], 0, 2)
    assert (shared["scale"].item(), len(shared["positions"]), len(shared["ids"])) == (2.0, 7, 2)


def test_names_are_places() -> None:
    assert [name for name, _ in named_tensors(({"a": (ROWS, {"b": IDS})}, Pair(ROWS, IDS)))] == [
        "0.a.0",
        "0.a.1.b",
        "1.image",
        "1.time",
    ]
    assert [name for name, _ in named_tensors(ROWS)] == [""]
    assert first_tensor_of((None, {"b": IDS})) is IDS
    assert first_tensor_of([None, 3]) is None


def test_images_alone_are_laid_out_with_channels_last() -> None:
    batch = to_device({"image": torch.zeros(2, 3, 4, 4), "row": ROWS}, torch.device("cpu"), channels_last=True)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["row"].is_contiguous()


def test_batches_without_samples_or_of_two_structures_are_refused_with_what_came() -> None:
    for batch in (None, {"a": None}, (), torch.tensor(1.0)):
        with pytest.raises(BatchError, match="a row per sample"):
            count_samples(batch)
    with pytest.raises(BatchError, match=r"one structure, got entries a \(4,\) int64 and entries b \(4,\) int64"):
        join([{"a": IDS}, {"b": IDS}])
    with pytest.raises(BatchError, match=r"samples of one shape, got shape \(4, 3\) and shape \(4, 2\)"):
        join([ROWS, ROWS[:, :2]])
    with pytest.raises(BatchError, match="got none"):
        join([])


def test_descriptions_name_every_entry() -> None:
    assert describe(ROWS) == "shape (4, 3)"
    assert describe({"ids": IDS, "x": (ROWS,)}) == "entries ids (4,) int64, x.0 (4, 3) float32"
    assert describe(None) == "type NoneType without a tensor"


def test_a_mapping_is_called_by_name_a_tuple_by_place_and_anything_else_as_it_is() -> None:
    def model(*args: Any, **keywords: Any) -> Any:
        return args, keywords

    assert call(model, ROWS) == ((ROWS,), {})  # type: ignore[arg-type]
    assert call(model, (1, 2)) == ((1, 2), {})  # type: ignore[arg-type]
    assert call(model, UserDict({"a": 1})) == ((), {"a": 1})  # type: ignore[arg-type]
    assert call(model, [1, 2]) == (([1, 2],), {})  # type: ignore[arg-type]


def test_entries_are_told_by_place_with_dimensions_or_shapes() -> None:
    batch = {"rows": ROWS, "parts": (IDS, None), "boxes": [torch.ones(2, 4), torch.ones(7, 4)], "shared": torch.ones(3, 3)}
    assert entries(batch) == {
        "rows": "float32 of 2 dimensions",
        "parts.0": "int64 of 1 dimensions",
        "boxes": "float32 of 2 dimensions",
        "shared": "float32 of 2 dimensions",
    }
    shaped = entries(batch, 4)
    assert (shaped["rows"], shaped["parts.0"]) == ("float32 of shape (N, 3)", "int64 of shape (N,)")
    assert (shaped["boxes"], shaped["shared"]) == ("float32 of 2 dimensions", "float32 of shape (3, 3)")
    assert entries([], 0) == {}


def test_values_that_are_no_numbers_are_told_by_place() -> None:
    assert not_finite({"ids": IDS, "rows": ROWS}) is None
    assert not_finite(ROWS / 0) == "the tensor of shape (4, 3) holds 12 values that are infinite or not a number"
    assert str(not_finite((IDS, ROWS.clone().fill_(torch.inf)))).startswith("entry 1 of shape (4, 3) holds 12")
