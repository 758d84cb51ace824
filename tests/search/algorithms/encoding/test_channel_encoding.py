import numpy as np
import pytest

from search.algorithms.encoding.channel_encoding import ChannelEncoding, UnreachableTargetError
from search.study.problem import Problem, Target
from spaces.domains import Choice, Real
from spaces.errors import SecateursError
from spaces.levels.levels import NoLevelsError
from tests.search.algorithms.synthetic_space import TOP1, SyntheticSpace, problem_of


def test_masks_and_candidates_are_two_forms_of_the_same():
    encoding = ChannelEncoding(problem_of(SyntheticSpace([3, 5])))
    masks = [np.array([True, False, True]), np.array([False, True, True, False, False])]
    candidate = encoding.candidate(masks)
    assert dict(candidate.values) == {"layer0": "101", "layer1": "01100"}
    assert all(np.array_equal(a, b) for a, b in zip(encoding.masks(candidate), masks, strict=True))


def test_strongest_keeps_the_most_important_also_among_ties():
    space = SyntheticSpace([4])
    problem = Problem(space, [TOP1], [], {"importance": {"layer0": np.array([1.0, 3.0, 1.0, 1.0])}})
    encoding = ChannelEncoding(problem)
    kept = ["".join("1" if bit else "0" for bit in encoding.strongest(0, count)) for count in range(5)]
    assert kept == ["0000", "0100", "1100", "1110", "1111"]


def test_load_is_the_share_of_the_tightest_target_or_of_the_dense_cost():
    space = SyntheticSpace([4, 4])
    dense = space.costs(space.dense())
    problem = problem_of(space, None)
    assert ChannelEncoding(problem).load_of(space.dense()) == 1.0
    limits = [Target("macs", dense["macs"] / 2), Target("parameters", dense["parameters"] / 4)]
    encoding = ChannelEncoding(Problem(space, [TOP1], limits, problem.tables))
    assert encoding.load_of(space.dense()) == pytest.approx(4.0)


@pytest.mark.parametrize(("multiple", "minimum", "prefixes"), [(1, 1, False), (1, 2, False), (2, 1, False), (1, 1, True)])
def test_size_is_the_number_of_enumerated_candidates(multiple, minimum, prefixes):
    space = SyntheticSpace([3, 4], multiple, minimum)
    encoding = ChannelEncoding(problem_of(space, None))
    made = [encoding.candidate(masks) for masks in encoding.enumerate(prefixes)]
    assert len({candidate.fingerprint for candidate in made}) == len(made) == encoding.size(prefixes)
    for candidate in made:
        space.validate(candidate)


@pytest.mark.parametrize("domain", [Choice(("l1", "l2")), Real(0.0, 1.0)])
def test_other_decisions_are_refused_by_name(domain):
    space = SyntheticSpace([3])
    space._domains["criterion"] = domain
    with pytest.raises(NoLevelsError, match=f"'criterion' is of type {type(domain).__name__}"):
        ChannelEncoding(Problem(space, [TOP1], [], {"importance": {"layer0": np.ones(3)}}))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "found none"),
        ({"importance": {"other": np.ones(3)}}, r"tables\['importance'\]\['layer0'\]"),
        ({"importance": {"layer0": np.ones(4)}}, r"expected 3 finite values, got shape \(4,\)"),
        ({"importance": {"layer0": np.array([1.0, np.nan, 2.0])}}, "1 that are not finite"),
    ],
)
def test_importance_that_does_not_fit_is_an_error(table, message):
    with pytest.raises(SecateursError, match=message):
        ChannelEncoding(Problem(SyntheticSpace([3]), [TOP1], [], table))


def test_an_unreachable_target_names_the_smallest_cost():
    with pytest.raises(UnreachableTargetError, match=r"macs <= 27\.84 cannot be met: .* macs = 56;"):
        ChannelEncoding(problem_of(SyntheticSpace([8, 8, 8], minimum=2), 0.06))
