import numpy as np
import pytest

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.study.problem import Problem, Target
from spaces.errors import SecateursError
from tests.search.algorithms.synthetic_space import TOP1, SyntheticSpace, bits, problem_of


@pytest.mark.parametrize("target", [0.2, 0.4, 0.7])
def test_uniform_keeps_the_same_share_of_every_layer_the_strongest_first(target):
    problem = problem_of(SyntheticSpace([16, 32, 64]), target)
    encoding = ChannelEncoding(problem)
    candidate = uniform(problem)
    masks = encoding.masks(candidate)
    shares = [mask.mean() for mask in masks]
    assert max(shares) - min(shares) < 0.1
    for layer, mask in enumerate(masks):
        assert np.array_equal(mask, encoding.strongest(layer, int(mask.sum())))
    assert 0.98 < encoding.load_of(candidate) <= 1.0


def test_global_magnitude_is_one_threshold_on_importance_over_the_layers_mean():
    space = SyntheticSpace([32, 32, 32])
    rng = np.random.default_rng(0)
    importance = {f"layer{i}": 10.0**i * rng.gamma([0.5, 1.0, 3.0][i], size=32) for i in range(3)}
    limit = 0.4 * space.costs(space.dense())["macs"]
    problem = Problem(space, [TOP1], [Target("macs", limit)], {"importance": importance})
    candidate = global_magnitude(problem)
    relative = np.concatenate([values / values.mean() for values in importance.values()])
    kept = bits(candidate).astype(bool)
    # At the end of the budget cheaper channels fill up; up to those it is a threshold.
    misplaced = (relative[kept][:, None] < relative[~kept][None, :]).any(axis=1).sum()
    assert misplaced <= 3
    assert ChannelEncoding(problem).load_of(candidate) > 0.98
    shares = [str(value).count("1") / 32 for value in candidate.values.values()]
    assert shares[0] < shares[2]


def test_legal_counts_are_kept():
    space = SyntheticSpace([16, 24, 30], multiple=8, minimum=2)
    for make in (uniform, global_magnitude):
        space.validate(make(problem_of(space, 0.5)))


def test_a_baseline_needs_a_target():
    with pytest.raises(SecateursError, match="needs a target.*got targets on nothing; set search.target to a cost"):
        uniform(problem_of(SyntheticSpace([8, 8]), None))


def test_an_impossible_target_names_the_smallest_cost():
    with pytest.raises(SecateursError, match="macs = 23"):
        global_magnitude(problem_of(SyntheticSpace([8, 8, 8]), 0.01))
