"""Adapters are trained in place of the weights, and are part of them afterwards."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from evaluators.tasks.measure import measure
from evaluators.training.adapters import AdapterSettings
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.errors import TrainingError
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from evaluators.training.state import end_of
from spaces.errors import UnsupportedModelError
from tests.evaluators.small_task import digits_task
from tests.evaluators.training.ranks_apart import Residual

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(
    epochs=2, batch_size=64, optimizer=OptimizerSettings("adamw", lr=0.02, weight_decay=0.0), adapters=AdapterSettings(rank=2)
)


def trained(model, **options):
    seen = {}

    def see(record):
        seen["outputs"] = outputs(model)
        seen["names"] = list(model.state_dict())

    task = digits_task(train_size=128)
    history = train(model, task, replace(SETTINGS, **options), seed=3, device=CPU, on_epoch=see)
    return history, seen, task


def outputs(model):
    inputs = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    was, found = model.training, None
    with torch.no_grad():
        found = model.eval()(inputs)
    model.train(was)
    return found


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual()


def test_merged_outputs_are_those_of_the_adapters_and_the_state_is_a_plain_networks():
    model, start = network(), network()
    places = {name: id(parameter) for name, parameter in model.named_parameters()}
    history, seen, task = trained(model, keep_epoch="last")
    assert any("parametrizations" in name for name in seen["names"])
    torch.testing.assert_close(outputs(model), seen["outputs"])
    assert float((outputs(start) - seen["outputs"]).abs().max()) > 0.1
    assert measure(model, task, "search")["top1"] == pytest.approx(history.epochs[-1].search_score)
    assert list(model.state_dict()) == list(start.state_dict())
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == places
    assert type(model.inner) is nn.Conv2d
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert history.optimizer is None
    for (name, new), old in zip(model.named_parameters(), start.parameters(), strict=True):
        if name in ("stem.weight", "inner.weight", "head.weight"):
            change = (new - old).detach().flatten(1)
            singular = torch.linalg.svdvals(change)
            assert float(singular[1]) > 0.0
            # The stem reads one channel: six outputs of nine weights each.
            assert float(singular[2]) < 1e-5 * float(singular[0])
        else:
            assert torch.equal(new, old), name


def test_layers_are_chosen_by_name_and_what_else_is_trained_by_train_only():
    model, start = network(), network()
    trained(model, adapters=AdapterSettings(layers=("inner",)), train_only=("head",))
    moved = {
        name for (name, new), old in zip(model.named_parameters(), start.parameters(), strict=True) if not torch.equal(new, old)
    }
    assert moved == {"inner.weight", "head.weight", "head.bias"}
    model = network()
    model.inner.weight.requires_grad_(False)
    trained(model)
    assert torch.equal(model.inner.weight, start.inner.weight)
    assert not model.inner.weight.requires_grad


def test_alpha_and_the_seed_are_what_adapters_begin_with():
    ends = []
    for options in ({}, {"alpha": 32.0}, {"rank": 1000}):
        model = network()
        trained(model, epochs=1, adapters=AdapterSettings(**{"rank": 2, **options}))
        ends.append(model.inner.weight.detach().clone())
    assert not torch.equal(ends[0], ends[1])
    # A rank that no layer has is as many as there are: six outputs.
    model = network()
    trained(model, epochs=1, adapters=AdapterSettings(rank=6, layers=("inner",)))
    other = network()
    trained(other, epochs=1, adapters=AdapterSettings(rank=1000, layers=("inner",)))
    assert torch.equal(model.inner.weight, other.inner.weight)


def test_a_checkpoint_in_the_middle_gives_merged_weights(tmp_path):
    model, checkpoint = network(), FileCheckpoint(tmp_path / "state.safetensors")
    task = digits_task(train_size=128)
    train(model, task, SETTINGS, seed=3, device=CPU, checkpoint=checkpoint, until=1)
    weights, state = end_of(checkpoint.packed())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert list(state.names) == []
    train(model, task, SETTINGS, seed=3, device=CPU, checkpoint=checkpoint)
    whole = network()
    train(whole, task, SETTINGS, seed=3, device=CPU)
    assert all(
        torch.equal(one, other) for one, other in zip(model.state_dict().values(), whole.state_dict().values(), strict=True)
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.two.weight = self.one.weight

    def forward(self, inputs):
        return self.head(self.two(self.one(inputs.flatten(1)).relu()))


def test_layers_that_can_have_none_are_left_out_or_named():
    model = Tied()
    start = model.one.weight.detach().clone()
    trained(model)
    assert model.two.weight is model.one.weight
    assert torch.equal(model.one.weight, start)
    with pytest.raises(TrainingError, match="^adapters: expected a weight of one's own"):
        trained(Tied(), adapters=AdapterSettings(layers=("one",)))
    with pytest.raises(TrainingError, match="trained itself by train_only"):
        trained(Tied(), adapters=AdapterSettings(layers=("head",)), train_only=("head",))
    with pytest.raises(TrainingError, match="^adapters: Tied has no linear layer"):
        trained(Tied(), train_only=("head",))
    with pytest.raises(UnsupportedModelError, match="'haed' matches no layer"):
        trained(Tied(), adapters=AdapterSettings(layers=("haed",)))


@pytest.mark.parametrize(("options", "name"), [({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha"), ({"layers": ()}, "layers")])
def test_wrong_settings_are_named(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        AdapterSettings(**options)
