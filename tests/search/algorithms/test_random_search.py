import numpy as np
import pytest

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.random import RandomSearch, RandomSettings
from tests.search.algorithms.synthetic_space import MACS, TOP1, Interacting, SyntheticSpace, drive, problem_of

SPACE = SyntheticSpace([16, 16, 24])


@pytest.mark.parametrize("channels", ["importance", "random"])
def test_candidates_use_up_the_target_and_differ_in_their_shares(channels):
    problem = problem_of(SPACE, 0.4)
    encoding = ChannelEncoding(problem)
    trials = drive(RandomSearch(problem, RandomSettings(60, channels), 0), Interacting(problem))
    loads = [encoding.load_of(trial.proposal.candidate) for trial in trials]
    assert len(trials) == 60
    assert min(loads) > 0.93
    assert max(loads) <= 1.0
    shares = np.array([[mask.mean() for mask in encoding.masks(trial.proposal.candidate)] for trial in trials])
    assert shares.std(axis=0).min() > 0.1
    strongest = [
        all(np.array_equal(mask, encoding.strongest(layer, int(mask.sum()))) for layer, mask in enumerate(masks))
        for masks in (encoding.masks(trial.proposal.candidate) for trial in trials)
    ]
    assert np.mean(strongest) > 0.9 if channels == "importance" else np.mean(strongest) == 0.0


def test_without_a_target_costs_are_spread():
    problem = problem_of(SPACE, None, [TOP1, MACS])
    dense = SPACE.costs(SPACE.dense())["macs"]
    trials = drive(RandomSearch(problem, RandomSettings(60), 0), Interacting(problem))
    shares = np.array([trial.metrics["macs"] / dense for trial in trials])
    assert shares.min() < 0.15
    assert shares.max() > 0.85


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="evaluations: expected at least 1, got 0"):
        RandomSettings(evaluations=0)
