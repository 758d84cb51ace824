from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.candidate import Candidate, mask_of, mask_text

MIXED: dict[str, Any] = {"conv1": "0110", "fc.weight": 4, "ratio": 0.25, "draw": "weight", "flag": True}


@pytest.mark.parametrize(
    ("values", "fingerprint"),
    [(MIXED, "2d7b31a95befd742"), ({"a": "1" * 16}, "dc557c78e3adfa39"), ({}, "44136fa355b3678a")],
)
def test_fingerprints_of_recorded_trials_stay(values: dict[str, Any], fingerprint: str) -> None:
    masked = {
        name: mask_of(value) if str(value)[0] in "01" and isinstance(value, str) else value for name, value in values.items()
    }
    assert Candidate(values).fingerprint == fingerprint
    assert Candidate(masked).fingerprint == fingerprint


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_masks_are_arrays_inside_and_text_in_values(bits: list[bool]) -> None:
    mask = np.array(bits)
    one = Candidate({"conv": mask})
    text = "".join("1" if bit else "0" for bit in bits)
    assert one.values == {"conv": text}
    assert mask_text(mask) == text
    other = Candidate.from_json(one.to_json())
    assert other == one
    for found in (one, other, pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert found.mask("conv").dtype == np.bool_
        assert found.mask("conv").tolist() == bits
        assert hash(found) == hash(one)


def test_equal_candidates_are_equal_in_the_order_of_their_decisions_too() -> None:
    one = Candidate({name: MIXED[name] for name in reversed(MIXED)})
    for found in (one, Candidate.from_json(one.to_json()), Candidate(MIXED), one.part(MIXED), Candidate({}).joined(one)):
        assert list(found.values) == sorted(MIXED)
        assert repr(found) == repr(one)


def test_a_candidate_never_changes() -> None:
    mask = np.array([True, False, True])
    one = Candidate({"conv": mask})
    mask[0] = False
    assert one.values == {"conv": "101"}
    for found in (one, Candidate({"conv": "101"})):
        with pytest.raises(ValueError, match="read-only"):
            found.mask("conv")[0] = False


def test_readers_say_what_is_no_mask_and_no_number() -> None:
    one = Candidate(MIXED)
    assert one.number("fc.weight") == 4.0
    assert one.number("ratio") == 0.25
    with pytest.raises(TypeError, match="'fc.weight' is 4; expected a keep-mask"):
        one.mask("fc.weight")
    with pytest.raises(TypeError, match="'draw' is 'weight'; expected a number"):
        one.number("draw")
    with pytest.raises(TypeError, match="'conv' is '01'; expected a number"):
        Candidate({"conv": np.array([False, True])}).number("conv")
    with pytest.raises(KeyError, match="other"):
        one.mask("other")


def test_parts_and_joins() -> None:
    one = Candidate(MIXED)
    assert one.part(["ratio", "conv1"]).values == {"conv1": "0110", "ratio": 0.25}
    joined = one.part(["conv1", "ratio"]).joined(Candidate({"ratio": 0.5, "bits": 8}))
    assert joined.values == {"conv1": "0110", "ratio": 0.5, "bits": 8}
    assert one != joined
    assert one != MIXED
    assert "'ratio': 0.25" in repr(one)
