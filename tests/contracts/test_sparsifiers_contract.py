"""What every registered sparsifier promises."""

import dataclasses

import pytest
import torch
from torch import nn

from spaces.forward import call
from spaces.registry import lookup
from spaces.sparsifiers import SPARSIFIERS
from spaces.sparsifiers.base import Sparsifier


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )


@pytest.fixture(params=list(SPARSIFIERS))
def kind(request):
    return lookup(SPARSIFIERS, request.param, "sparsifier")


def begin(sparsifier, model):
    sparsifier.trace(model, torch.zeros(1, 1, 4, 4), call)
    sparsifier.start(model, total_steps=6)


def steps(model, optimizer, sparsifier, numbers):
    for number in numbers:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            inputs, targets = torch.randn(8, 1, 4, 4), torch.randint(0, 3, (8,))
            sparsifier.before_forward(inputs, targets)
            loss = nn.functional.cross_entropy(model(inputs), targets)
            penalty = sparsifier.penalty()
            loss = loss if penalty is None else loss + penalty
            optimizer.zero_grad()
            loss.backward()
            sparsifier.after_backward()
            optimizer.step()
            sparsifier.after_step()


def test_settings_are_a_frozen_dataclass_that_forbids_unknown_keys(kind):
    assert issubclass(kind, Sparsifier)
    assert dataclasses.is_dataclass(kind.Settings)
    assert kind.Settings.__dataclass_params__.frozen
    assert kind.Settings.__pydantic_config__ == {"extra": "forbid"}


def test_made_from_default_settings_it_changes_training(kind):
    trained = {}
    for name in ("without", "with"):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier = kind(kind.Settings()) if name == "with" else _Nothing()
        begin(sparsifier, model)
        steps(model, optimizer, sparsifier, range(6))
        trained[name] = model.state_dict()
    assert any(not torch.equal(trained["with"][key], trained["without"][key]) for key in trained["with"])
    assert all(torch.isfinite(tensor).all() for tensor in trained["with"].values())


def test_state_goes_on_exactly(kind):
    straight, stopped = network(), network()
    optimizer = torch.optim.SGD(straight.parameters(), lr=0.1)
    sparsifier = kind(kind.Settings())
    begin(sparsifier, straight)
    steps(straight, optimizer, sparsifier, range(6))

    optimizer = torch.optim.SGD(stopped.parameters(), lr=0.1)
    first = kind(kind.Settings())
    begin(first, stopped)
    steps(stopped, optimizer, first, range(3))
    weights = {name: tensor.clone() for name, tensor in stopped.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())

    resumed = network()
    second = kind(kind.Settings())
    begin(second, resumed)
    resumed.load_state_dict(weights)
    second.load_state_dict(state)
    steps(resumed, torch.optim.SGD(resumed.parameters(), lr=0.1), second, range(3, 6))
    assert all(torch.equal(straight.state_dict()[name], tensor) for name, tensor in resumed.state_dict().items())
    assert second.finished == sparsifier.finished


def test_masks_are_boolean(kind):
    sparsifier = kind(kind.Settings())
    begin(sparsifier, network())
    assert all(mask.dtype == torch.bool for mask in sparsifier.keep_masks().values())


class _Nothing(Sparsifier):
    def start(self, model, total_steps):
        pass
