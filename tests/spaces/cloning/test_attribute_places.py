"""Places in attributes: whole ones, and single numbers of lists."""

from __future__ import annotations

from spaces.cloning.attribute_places import set_at, value_at


def test_places_are_read_and_set_without_a_change_of_the_list_itself() -> None:
    parts = [3, 5]
    held = {"parts": parts, "shape": (8, 1), "dim": 8}
    for place, number in (("parts[1]", 2), ("shape[0]", 4), ("dim", 4)):
        set_at(held, place, number)
        assert value_at(held, place) == number
    assert held == {"parts": [3, 2], "shape": (4, 1), "dim": 4}
    assert parts == [3, 5]


def test_a_place_that_there_is_not_has_no_value() -> None:
    held = {"parts": [3, 5], "dim": 8}
    assert [value_at(held, place) for place in ("parts[2]", "dim[0]", "parts[x]", "other", "other[0]")] == [None] * 5
