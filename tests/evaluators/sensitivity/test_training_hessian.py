"""Second derivatives from the moments of the training just done, against moments measured on the folded network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.sensitivity.training_hessian import MissingMomentsError, moments_by_weight, training_hessian
from evaluators.training.moments import TrainingMoments
from evaluators.training.optimizers import OptimizerSettings, make_optimizer
from evaluators.training.settings import TrainingSettings
from evaluators.training.state import OptimizerState
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.quantization.fake_quantize import fake_quantizers
from spaces.quantization.layers import quantized_layers

BATCH = 8


@pytest.fixture(scope="module")
def network():
    """A network with a BatchNorm behind either kind of convolution, one of its channels dead."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.BatchNorm2d(3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5),
        )  # fmt: skip
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.2, 3.0)
                nn.init.uniform_(module.weight, 0.3, 2.0)
                nn.init.normal_(module.bias)
    with torch.no_grad():
        model[1].weight[2] = 0.0
    return model.eval()


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(BATCH, 1, 8, 8, generator=generator), torch.randint(0, 5, (BATCH,), generator=generator)) for _ in range(5)
    ]


def moments_of(network, batches, name="adam"):
    """Return the moments of a training on ``batches`` in evaluation mode, so slow that no weight moves."""
    settings = TrainingSettings(epochs=1, batch_size=BATCH, optimizer=OptimizerSettings(name, lr=1e-30, weight_decay=0.0))
    optimizer = make_optimizer(network, settings.optimizer)
    for inputs, targets in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    return TrainingMoments.of(OptimizerState.of(optimizer, network), settings)


@pytest.fixture(scope="module")
def prepared(network):
    settings = BitWidthSettings(weight_bits=(4, 8), activation_bits=(8,), bias_correction=False)
    space = BitWidth(network, torch.zeros(1, 1, 8, 8), settings)
    found = space.prepare(network, space.cheapest()).eval()
    for quantizer in fake_quantizers(found).values():
        quantizer.enabled = False
    return found


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_they_are_the_folded_networks_own_where_statistics_were_frozen(name, network, prepared, batches):
    found = training_hessian(moments_of(network, batches, name), network, prepared)
    own = moments_of(prepared, batches, name)
    assert set(found) == {f"{layer}.weight" for layer in quantized_layers(prepared)} == {"0.weight", "3.weight", "8.weight"}
    for weight, second in found.items():
        expected = BATCH * own.values[weight]
        if weight == "0.weight":
            assert not second[2].any(), "a dead channel cannot be rounded"
            second, expected = second[[0, 1, 3]], expected[[0, 1, 3]]
        assert torch.allclose(second, expected, rtol=1e-3, atol=1e-7 * float(expected.max()))
        assert float(second.max()) > 0.0


def test_moments_are_corrected_by_their_own_number_of_steps(network, batches):
    moments = moments_of(network, batches[:3])
    squares = []
    for inputs, targets in batches[:3]:
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(inputs), targets), network[8].weight)
        squares.append(gradient.square())
    v = 0.001 * (0.999**2 * squares[0] + 0.999 * squares[1] + squares[2])
    assert torch.allclose(moments.values["8.weight"], v / (1 - 0.999**3), rtol=1e-4)
    assert (moments.steps, moments.batch_size, moments.optimizer) == (3, BATCH, "adam")


def test_the_reason_is_said_where_there_are_none(network, prepared, batches):
    moments = moments_of(network, batches[:1])
    with pytest.raises(MissingMomentsError, match="no training"):
        training_hessian(None, network, prepared)
    with pytest.raises(MissingMomentsError, match="used sgd"):
        training_hessian(moments_of(network, batches[:1], "sgd"), network, prepared)
    frozen = {name: value for name, value in moments.values.items() if name != "3.weight"}
    with pytest.raises(MissingMomentsError, match=r"no second moments of 3\.weight"):
        training_hessian(dataclasses.replace(moments, values=frozen), network, prepared)
    other = nn.Sequential(*network)
    changed = nn.Linear(3, 5)
    other[8] = changed
    with pytest.raises(MissingMomentsError, match=r"8\.weight was changed"):
        training_hessian(moments, other, prepared)


def test_a_network_trained_as_it_is_has_no_factor(prepared, batches):
    moments = moments_of(prepared, batches)
    found = moments_by_weight(moments, prepared)
    assert torch.allclose(found["3.weight"], BATCH * moments.values["3.weight"])
    assert moments_by_weight(None, prepared) is None
