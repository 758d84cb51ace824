"""Problem: levels of every decision, for the algorithms that search them."""

from __future__ import annotations

import numpy as np

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from tests.search.algorithms.synthetic_space import SyntheticSpace, problem_of


def test_levels_keep_the_channels_that_the_encoding_finds_strongest() -> None:
    problem = problem_of(SyntheticSpace([40, 7]))
    encoding = ChannelEncoding(problem)
    for layer, (name, levels) in enumerate(problem.levels.items()):
        assert name == encoding.names[layer]
        assert len(levels) == (16, 7)[layer]
        for level in levels:
            strongest = encoding.strongest(layer, str(level).count("1"))
            assert str(level) == "".join(str(int(bit)) for bit in np.asarray(strongest))
