"""Check that a space, a sparsifier or a layer kind keeps its interface: contract tests for these and for your own.

Every function raises AssertionError with the broken promise, and returns None.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.channels.check import equivalence_error, find_checked_groups, half_mask
from spaces.execution.batch import Nested, reorder, select
from spaces.execution.forward import call, tensors_in
from spaces.importance.criterion import CRITERIA, Observations
from spaces.layers.layer_kind import layer_kinds
from spaces.sparsifiers.base import Sparsifier
from spaces.transformation import apply

TOLERANCE = 1e-4
"""Largest difference between outputs in float32 that counts as equal, relative to the largest output."""


def check_settings(settings: type) -> None:
    """Check that ``settings`` is a frozen dataclass that refuses unknown keys in a configuration."""
    assert dataclasses.is_dataclass(settings), f"{settings.__name__}: expected a dataclass"
    parameters = settings.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen, f"{settings.__name__}: expected a frozen dataclass"
    config = settings.__pydantic_config__  # type: ignore[attr-defined]
    assert config == {"extra": "forbid"}, f"{settings.__name__}.__pydantic_config__: expected {{'extra': 'forbid'}}"


def check_space(
    kind: type[SearchSpace[Any]],
    model: nn.Module,
    inputs: Nested,
    count: Callable[[nn.Module], Mapping[str, float]],
    settings: object = None,
    batches: Sequence[Nested] = (),
    seen: Observations | None = None,
    candidates: int = 4,
) -> None:
    """Check a space on a network: legal candidates, equal outputs, exact costs, a network that can be rebuilt.

    Args:
        kind: The space's class.
        model: A small network in evaluation mode, run by :func:`spaces.execution.forward.call`.
        inputs: One batch of a single sample.
        count: Costs counted on a built network, such as those of :func:`evaluators.cost.count_costs`.
        settings: Settings of the class; by default ``kind.Settings()``.
        batches: Batches of inputs to calibrate on.
        seen: Labelled batches, for a space that learns from them which channels matter.
        candidates: Number of candidates that are drawn and built.
    """
    check_settings(kind.Settings)
    before = copy.deepcopy(model.state_dict())
    space = kind(model, inputs, kind.Settings() if settings is None else settings, batches=iter(batches))
    assert space.domains, "domains: expected at least one decision"
    if space.learns:
        assert seen is not None, "learns: expected labelled batches (seen=...) to learn from"
        space.learn(seen)
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(candidates)]
    again = np.random.default_rng(0)
    assert drawn == [space.sample(again) for _ in range(candidates)], "sample: expected the same candidates from the same seed"
    together = space.costs_of(drawn)
    assert together == [space.costs(one) for one in drawn], "costs_of: expected the costs of every candidate, in order"
    smallest = space.cheapest()
    for candidate in [*drawn, *space.starting_points(), *([] if smallest is None else [smallest])]:
        _check_candidate(space, candidate, model, inputs, count)
    share = space.open_share()
    assert 0.0 <= share <= 1.0, f"open_share: expected a share in [0, 1], got {share}"
    if space.levels is not None:
        assert set(space.levels) == set(space.domains), "levels: expected those of every decision"
    _require_unchanged(model, before, type(space).__name__)


def _check_candidate(
    space: SearchSpace[Any],
    candidate: Candidate,
    model: nn.Module,
    inputs: Nested,
    count: Callable[[nn.Module], Mapping[str, float]],
) -> None:
    space.validate(candidate)
    copied = Candidate.from_json(candidate.to_json())
    assert copied == candidate, "to_json: expected the same candidate back"
    assert copied.fingerprint == candidate.fingerprint, "to_json: expected the same fingerprint back"
    described = space.describe(candidate)
    assert described, "describe: expected at least one value"
    for method in (space.describe, space.transformation):
        own, other = (json.dumps(method(one)) for one in (candidate, copied))
        assert own == other, f"{method.__name__}: expected the same JSON of a candidate that was read back, order included"
    assert all(isinstance(value, bool | int | float | str) for value in described.values()), "describe: expected plain values"
    if space.sparsifier(candidate) is not None:
        return  # Training decides what stays: there is nothing to build before it.
    realized = space.realize(model, candidate).eval()
    shared = {tensor.data_ptr() for tensor in model.state_dict().values() if tensor.numel()}
    assert not any(tensor.data_ptr() in shared for tensor in realized.state_dict().values() if tensor.numel()), (
        "realize: the network shares storage with the model that it was made from"
    )
    difference = space.check(model, candidate)
    assert difference <= TOLERANCE, f"check: the deployable network differs from the prepared one by {difference:g}"
    with torch.no_grad():
        expected = tensors_in(call(realized, inputs))
    promised, counted = space.costs(candidate), count(realized)
    for name in promised.keys() & counted.keys():
        exact = abs(promised[name] - counted[name]) <= 1e-6 * max(1.0, abs(counted[name]))
        assert exact, f"costs: {name} is {promised[name]:g}, counted on the built network {counted[name]:g}"
    rebuilt = apply(copy.deepcopy(model), space.transformation(candidate))
    rebuilt.load_state_dict(realized.state_dict())
    with torch.no_grad():
        found = tensors_in(call(rebuilt.eval(), inputs))
    same = all(torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE) for one, other in zip(found, expected, strict=True))
    assert same, "transformation: rebuilds another network"


def check_sparsifier(
    kind: type[Sparsifier], model: nn.Module, inputs: Nested, targets: Tensor, settings: object = None
) -> None:
    """Check that a sparsifier acts on a training, goes on exactly from its state, and decides boolean masks.

    Args:
        kind: The sparsifier's class.
        model: A small classifier; left unchanged.
        inputs: A batch of ``N`` samples.
        targets: Its classes, int64 of shape ``(N,)``.
        settings: Settings of the class; by default ``kind.Settings()``.
    """
    check_settings(kind.Settings)
    settings = kind.Settings() if settings is None else settings

    def make() -> Sparsifier:
        return kind(settings)

    before = copy.deepcopy(model.state_dict())
    plain, _ = _trained(None, model, inputs, targets, [6])
    straight, ended = _trained(make, model, inputs, targets, [6])
    assert any(not torch.equal(straight[name], plain[name]) for name in plain), "the sparsifier changes nothing in a training"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in straight.values()), "weights are not finite any more"
    resumed, ended_again = _trained(make, model, inputs, targets, [3, 3])
    same = all(torch.equal(straight[name], tensor) for name, tensor in resumed.items())
    assert same, "state_dict: a training that goes on from it ends with other weights"
    assert ended is not None
    assert ended_again is not None
    assert ended.settings == settings, "the constructor does not keep its settings in `settings`"
    named = ended.importance
    assert named is None or named in CRITERIA, f"importance: expected the name of a criterion or None, got {named!r}"
    assert ended_again.finished == ended.finished, "state_dict: `finished` differs after going on from it"
    for mask in ended.keep_masks().values():
        assert mask.dtype == torch.bool, f"keep_masks: expected boolean masks, got {mask.dtype}"
    _require_unchanged(model, before, kind.__name__)


def _trained(
    make: Callable[[], Sparsifier] | None, model: nn.Module, inputs: Nested, targets: Tensor, parts: Sequence[int]
) -> tuple[dict[str, Tensor], Sparsifier | None]:
    """Return the weights after some steps of training, interrupted between the parts, and the last sparsifier."""
    weights, state = copy.deepcopy(model.state_dict()), None
    sparsifier: Sparsifier | None = None
    done = 0
    for part in parts:
        network = copy.deepcopy(model)
        network.load_state_dict(weights)
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        sparsifier = None if make is None else make()
        if sparsifier is not None:
            sparsifier.trace(network, select(inputs, 0, 1), call)
            sparsifier.start(network, total_steps=sum(parts))
            sparsifier.bind(optimizer)
            if state is not None:
                sparsifier.load_state_dict(state)
        for step in range(done, done + part):
            order = torch.arange(len(targets)).roll(step)
            _step(network, optimizer, sparsifier, reorder(inputs, order), targets[order])
        done += part
        weights = copy.deepcopy(network.state_dict())
        state = None if sparsifier is None else {name: tensor.clone() for name, tensor in sparsifier.state_dict().items()}
    return weights, sparsifier


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: Sparsifier | None, inputs: Nested, targets: Tensor
) -> None:
    if sparsifier is not None:
        sparsifier.before_forward(inputs, targets)
    loss = nn.functional.cross_entropy(call(network, inputs), targets)
    penalty = None if sparsifier is None else sparsifier.penalty()
    optimizer.zero_grad()
    torch.autograd.backward(loss if penalty is None else loss + penalty)
    if sparsifier is not None:
        sparsifier.after_backward()
    optimizer.step()
    if sparsifier is not None:
        sparsifier.after_step()


def check_layer_kind(name: str, model: nn.Module, inputs: Tensor) -> None:
    """Check a registered layer kind on a network that holds such a layer between layers whose channels are open.

    Args:
        name: The kind's :attr:`~spaces.layers.layer_kind.LayerKind.name`.
        model: The network, in evaluation mode; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.

    Raises:
        EquivalenceError: The sliced network differs from the masked one.
    """
    known = [kind.name for kind in layer_kinds()]
    assert name in known, f"{name}: expected a kind of the registry, one of {known}"
    before = copy.deepcopy(model.state_dict())
    groups = find_checked_groups(model, inputs)
    layers = [layer for layer in groups.layers if layer.kind.name == name]
    assert layers, f"{name}: the network has no layer of this kind"
    touched = [layer for layer in layers if (layer.inputs >= 0).any() or (layer.outputs >= 0).any()]
    assert touched, f"{name}: no channel that a layer of this kind reads or writes is open: {groups.frozen}"
    for seed in range(3):
        equivalence_error(model, groups, half_mask(groups, groups.groups, seed), inputs)
    _require_unchanged(model, before, name)


def _require_unchanged(model: nn.Module, before: Mapping[str, Tensor], name: str) -> None:
    same = all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert same, f"{name} changed the model that it was given"
