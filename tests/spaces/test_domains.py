from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.candidate import Candidate
from spaces.domains import Choice, Mask, Real
from spaces.registry import UnknownNameError, lookup, resolve


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 10**6))
def test_masks_sample_what_they_contain(length: int, multiple: int, seed: int) -> None:
    domain = Mask(length, minimum=min(multiple, length), multiple=multiple)
    drawn = domain.sample(np.random.default_rng(seed))
    assert domain.contains(drawn)
    kept = drawn.count("1")
    assert kept == length or kept % multiple == 0
    assert kept >= 1


def test_masks_refuse_what_is_illegal() -> None:
    domain = Mask(4, minimum=2)
    assert domain.contains("0110")
    for wrong in ("0001", "011", "01102", 6, ["0", "1"], "abcd"):
        assert not domain.contains(wrong)


@given(st.integers(0, 10**6))
def test_numbers_and_choices_sample_what_they_contain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for domain in (Real(1e-4, 1e-1, log=True), Real(-1.0, 1.0), Choice((2, 4, 8)), Choice(("a", "b"))):
        assert domain.contains(domain.sample(rng))
    assert not Choice((1, 2)).contains(True)
    assert not Real(0.0, 1.0).contains(2.0)


def test_a_domain_says_what_it_is_and_nothing_of_what_it_is_not() -> None:
    said = [
        (one.choices, one.numbers, one.channels, one.legal_counts(), one.bounds, one.log)
        for one in (Mask(4, 2, 2), Choice((8, 2.5, 4)), Choice((1, "a")), Choice((False, True)), Real(1.0, 2.0, log=True))
    ]
    assert said == [
        ((), (), 4, [2, 4], None, False),
        ((8, 2.5, 4), [2.5, 4, 8], 0, [], None, False),
        ((1, "a"), (), 0, [], None, False),
        ((False, True), (), 0, [], None, False),
        ((), (), 0, [], (1.0, 2.0), True),
    ]


def test_fingerprint_is_of_the_content_and_survives_the_wire() -> None:
    one = Candidate({"b": "01", "a": 3})
    other = Candidate({"a": 3, "b": "01"})
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != Candidate({"a": 3, "b": "11"}).fingerprint
    assert pickle.loads(pickle.dumps(one)) == one
    assert Candidate.from_json(one.to_json()) == one


def test_unknown_names_get_the_nearest_match() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'genetic'.*known: genetic, random"):
        lookup({"genetic": "x:y", "random": "x:z"}, "genetik", "algorithm")
    with pytest.raises(UnknownNameError, match="no module 'spacez'"):
        resolve("spacez.networks.resnet20")
    with pytest.raises(UnknownNameError, match="did you mean 'resnet20'"):
        resolve("spaces.networks.resnet2")
    names = {f"regnet_{index}": "x:y" for index in range(60)}
    with pytest.raises(UnknownNameError, match="did you mean 'regnet_7'.* and 50 more$"):
        lookup(names, "regnet_7x", "network")
    with pytest.raises(UnknownNameError, match="expected an import path"):
        resolve("resnet20")
