from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spaces.channels.groups import find_groups
from spaces.errors import MissingLabelsError, SecateursError
from spaces.importance.criterion import CRITERIA, CriterionName, CriterionOptions, Observations, make_criterion, score
from spaces.importance.task_relevance import ClassStatistics
from spaces.registry import resolve
from tests.spaces.zoo import ZOO, example, network


def seen_by(name: str, labels: bool = True, batches: int = 2) -> Observations:
    generator = torch.Generator().manual_seed(5)
    shape = (12, *example(name).shape[1:])
    shown = [(torch.randn(shape, generator=generator), torch.arange(12) % 3) for _ in range(batches)]

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.flatten(1), targets)

    return Observations(shown, loss, lambda targets: targets if labels else None)


def test_the_settings_name_every_criterion() -> None:
    assert set(get_args(CriterionName)) == set(CRITERIA)


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("name", list(ZOO))
def test_every_open_channel_has_a_finite_score(name: str, criterion: str) -> None:
    model = network(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    groups = find_groups(model, example(name))
    scores = score(model, groups, criterion, seen_by(name))
    assert {group.name: group.size for group in groups.groups} == {key: len(value) for key, value in scores.items()}
    assert all(np.isfinite(value).all() and (value >= 0).all() for value in scores.values())
    assert all(value.max() > 0 for value in scores.values())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


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
    filters = model.inner[0].weight.detach().flatten(1).numpy()
    distances = np.linalg.norm(filters[:, None] - filters[None], axis=2).sum(1)
    np.testing.assert_allclose(score(model, groups, "geometric_median")["inner.0"], distances, rtol=1e-5)


def test_taylor_is_the_slope_of_the_loss_as_a_channel_goes_to_zero() -> None:
    model = network("residual").double()
    groups = find_groups(model.float(), example("residual"))
    model.double()
    inputs, targets = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double(), torch.arange(12) % 3
    seen = Observations([(inputs, targets)], nn.functional.cross_entropy, lambda targets: targets)
    scores = score(model, groups, "taylor", seen)
    norms = {"stem.0": [model.stem[1], model.outer[1]], "inner.0": [model.inner[1]]}
    with torch.no_grad():
        for name, layers in norms.items():
            for channel in (0, 3):
                losses = []
                for factor in (1.0 - 1e-5, 1.0 + 1e-5):
                    stored = [(layer.weight[channel].clone(), layer.bias[channel].clone()) for layer in layers]
                    for layer in layers:
                        layer.weight[channel] *= factor
                        layer.bias[channel] *= factor
                    losses.append(float(nn.functional.cross_entropy(model(inputs), targets)))
                    for layer, (weight, bias) in zip(layers, stored, strict=True):
                        layer.weight[channel], layer.bias[channel] = weight, bias
                slope = (losses[1] - losses[0]) / 2e-5
                assert scores[name][channel] == pytest.approx(abs(slope), rel=1e-4, abs=1e-9)


def test_task_relevance_is_fishers_ratio_of_the_pooled_activation() -> None:
    model = network("plain")
    groups = find_groups(model, example("plain"))
    seen = seen_by("plain", batches=3)
    scores = score(model, groups, "task_relevance", seen)
    inputs, labels = (torch.cat(parts) for parts in zip(*seen.batches, strict=True))
    with torch.no_grad():
        first = model.first(inputs)
        second = nn.functional.max_pool2d(model.second(first), 2)
        hidden = torch.relu(model.hidden(second.flatten(1)))
    for name, activation in (("first.0", first.mean((2, 3))), ("second.0", second.mean((2, 3))), ("hidden", hidden)):
        values = activation.double().numpy()
        by_class = [values[labels.numpy() == label] for label in range(3)]
        between = sum(len(own) * (own.mean(0) - values.mean(0)) ** 2 for own in by_class) / len(values)
        within = sum(((own - own.mean(0)) ** 2).sum(0) for own in by_class) / len(values)
        np.testing.assert_allclose(scores[name], between / (within + 1e-12), rtol=1e-4)


def test_the_product_weighs_relevance_by_its_exponent() -> None:
    model = network("residual")
    groups = find_groups(model, example("residual"))
    effect, relevance = (score(model, groups, name, seen_by("residual")) for name in ("taylor", "task_relevance"))
    for exponent in (0.0, 0.5, 2.0):
        product = score(model, groups, "relevance_loss", seen_by("residual"), CriterionOptions(exponent=exponent))
        for name in product:
            expected = effect[name] / effect[name].mean() * (relevance[name] / relevance[name].mean()) ** exponent
            np.testing.assert_allclose(product[name], expected, rtol=1e-6)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=40)
def test_class_statistics_do_not_depend_on_how_batches_are_cut(sizes: list[int], offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    values = torch.from_numpy(rng.normal(offset, 1.0, (total, 3)))
    labels = torch.from_numpy(rng.integers(0, 4, total))
    cut, whole = ClassStatistics(3, torch.device("cpu")), ClassStatistics(3, torch.device("cpu"))
    whole.add(values, labels)
    for features, own in zip(values.split(sizes), labels.split(sizes), strict=True):
        cut.add(features, own)
    within = torch.zeros(3, dtype=torch.float64)
    for label in range(int(labels.max()) + 1):
        member = values[labels == label]
        assert int(cut.count[label]) == len(member)
        if len(member):
            torch.testing.assert_close(cut.mean[label], member.mean(0), rtol=1e-9, atol=1e-9)
            within += (member - member.mean(0)).square().sum(0)
    torch.testing.assert_close(cut.squares, within, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cut.discriminant_ratio(), whole.discriminant_ratio(), rtol=1e-6, atol=1e-9)


def test_a_constant_channel_is_irrelevant() -> None:
    statistics = ClassStatistics(2, torch.device("cpu"))
    features = torch.stack([torch.full((64,), 0.1), torch.zeros(64)], 1)
    statistics.add(
        features + 1e-9 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * features, torch.arange(64) % 4
    )
    assert float(statistics.discriminant_ratio().max()) < 1e-3


def test_memory_fades_by_the_smoothing() -> None:
    statistics = ClassStatistics(1, torch.device("cpu"))
    labels = torch.tensor([0, 0, 1, 1])
    for _ in range(40):
        statistics.add(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), labels, memory=0.5)
    for _ in range(40):
        statistics.add(torch.tensor([[0.0], [1.0], [0.0], [1.0]]), labels, memory=0.5)
    assert float(statistics.discriminant_ratio()) < 1e-6


@pytest.mark.parametrize("criterion", ["taylor", "task_relevance", "relevance_loss"])
def test_state_goes_on_exactly(criterion: str) -> None:
    model = network("residual")
    groups = find_groups(model, example("residual"))
    options = CriterionOptions(smoothing=0.9)
    whole, first = (make_criterion(criterion, model, groups, options) for _ in range(2))

    def show(learner, batch):
        learner.begin(batch[1])
        model.zero_grad()
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        learner.end()

    batches = list(seen_by("residual", batches=4).batches)
    for batch in batches:
        show(whole, batch)
    for batch in batches[:2]:
        show(first, batch)
    second = make_criterion(criterion, model, groups, options)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for batch in batches[2:]:
        show(second, batch)
    assert torch.equal(second.values(), whole.values())


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


def test_missing_labels_and_missing_batches_are_named() -> None:
    model = network("plain")
    groups = find_groups(model, example("plain"))
    with pytest.raises(MissingLabelsError, match="task has none"):
        score(model, groups, "task_relevance", seen_by("plain", labels=False))
    with pytest.raises(SecateursError, match="learns from batches"):
        score(model, groups, "taylor")


@pytest.mark.parametrize("name", list(CRITERIA))
def test_criteria_are_documented(name: str) -> None:
    assert resolve(CRITERIA[name]).__doc__


@pytest.mark.parametrize("options", [{"smoothing": 1.5}, {"exponent": -1.0}])
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        CriterionOptions(**options)
