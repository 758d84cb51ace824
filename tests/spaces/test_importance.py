from __future__ import annotations

import numpy as np
import pytest
import torch

from spaces.errors import SecateursError
from spaces.graph.channel_groups import find_groups
from spaces.sparsifiers.importance import score
from tests.spaces.zoo import ZOO, example, network


@pytest.mark.parametrize("criterion", ["bn_scale", "l1", "l2"])
@pytest.mark.parametrize("name", list(ZOO))
def test_every_open_channel_has_a_finite_score(name: str, criterion: str) -> None:
    groups = find_groups(network(name), example(name))
    scores = score(network(name), groups, criterion)
    assert {group.name: group.size for group in groups.groups} == {key: len(value) for key, value in scores.items()}
    assert all(np.isfinite(value).all() and (value >= 0).all() for value in scores.values())


def test_scores_follow_the_formulas() -> None:
    model = network("residual")
    groups = find_groups(model, example("residual"))
    scaled = score(model, groups, "bn_scale")
    expected = (model.stem[1].weight.abs() + model.outer[1].weight.abs()) / 2
    np.testing.assert_allclose(scaled["stem.0"], expected.detach().numpy(), rtol=1e-6)
    normed = score(model, groups, "l2")
    np.testing.assert_allclose(normed["inner.0"], model.inner[0].weight.flatten(1).norm(dim=1).detach().numpy(), rtol=1e-6)
    summed = score(model, groups, "l1")
    np.testing.assert_allclose(summed["inner.0"], model.inner[0].weight.flatten(1).abs().sum(1).detach().numpy(), rtol=1e-6)


def test_grouped_transposed_convolution_is_scored_by_its_own_filters() -> None:
    model = network("transposed_grouped")
    groups = find_groups(model, example("transposed_grouped"))
    with torch.no_grad():
        model.up.weight.zero_()
        model.down.weight.zero_()
        model.up.weight[2:4] = 1.0
    scores = score(model, groups, "l1")["down"]
    assert scores[1] > 0
    assert scores[0] == scores[2] == scores[3] == 0


def test_unknown_criterion_names_the_nearest() -> None:
    groups = find_groups(network("plain"), example("plain"))
    with pytest.raises(SecateursError, match="did you mean 'bn_scale'"):
        score(network("plain"), groups, "bn_scal")
