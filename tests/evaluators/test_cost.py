import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evaluators.base import EvaluationContext
from evaluators.cost import Cost, CostSettings, count_costs
from spaces import networks
from spaces.errors import SecateursError, UnsupportedModelError
from tests.evaluators.small_task import digits_task


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Linear(12, 5)

    def forward(self, inputs):
        attended, _ = self.attention(inputs, inputs, inputs, need_weights=False)
        return self.out(attended)


NETWORKS = {
    "resnet20": (lambda: networks.resnet20(), (3, 32, 32)),
    "vgg16": (lambda: networks.vgg16_bn(), (3, 16, 16)),
    "digits": (lambda: networks.digits_cnn(), (1, 8, 8)),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8, stride=2)), (4, 11, 9)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 4, stride=2, groups=2), nn.Conv2d(6, 2, 1)), (4, 5, 7)),
    "one_dimension": (lambda: nn.Sequential(nn.Conv1d(3, 5, 3, dilation=2), nn.Flatten(), nn.Linear(30, 4)), (3, 10)),
    "attention": (Attending, (7, 12)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_are_half_of_what_the_flop_counter_counts(name):
    factory, shape = NETWORKS[name]
    model = factory().eval()
    inputs = torch.randn(2, *shape)
    found = count_costs(model, inputs)
    # On the meta device: on CPU the counter misses fused attention.
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta")(inputs.to("meta"))
    assert found["macs"] == counter.get_total_flops() / 2 / 2
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["bit_operations"] == found["macs"] * 1024


def test_resnet20_is_as_large_as_the_paper_says():
    assert count_costs(networks.resnet20(), torch.randn(1, 3, 32, 32))["macs"] == pytest.approx(41e6, rel=0.02)


def test_size_counts_every_tensor_of_the_state_dict():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert count_costs(model, torch.randn(1, 1, 4, 4))["size_bytes"] == 4 * (18 + 2 + 2 + 2 + 2 + 2) + 8


def test_counting_leaves_the_model_as_it_was():
    model = networks.digits_cnn().train()
    before = copy.deepcopy(model.state_dict())
    count_costs(model, torch.randn(1, 1, 8, 8))
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_failing_forward_is_named():
    with pytest.raises(UnsupportedModelError, match=r"Conv2d on a batch of shape \(1, 3, 4, 4\) failed"):
        count_costs(nn.Conv2d(1, 2, 3), torch.randn(1, 3, 4, 4))


def test_evaluator_takes_complete_costs_and_counts_otherwise():
    task = digits_task()
    model = task.build()
    counted = count_costs(model, task.example_inputs())
    known = {"macs": 5.0, "parameters": 4.0, "size_bytes": 3.0, "bit_operations": 2.0, "more": 1.0}

    def evaluate(costs):
        context = EvaluationContext(task, torch.Generator(), torch.device("cpu"), 1.0, model, costs)
        return Cost(CostSettings()).evaluate(model, context)

    assert evaluate(known) == {"macs": 5.0, "parameters": 4.0, "size_bytes": 3.0, "bit_operations": 2.0}
    assert evaluate({"macs": 5.0}) == counted
    assert set(counted) == set(Cost(CostSettings()).metrics)


def test_latency_is_read_off_the_space_and_missed_where_it_is_not_known() -> None:
    task = digits_task()
    model = task.reference_model()
    known = {"macs": 1.0, "parameters": 2.0, "size_bytes": 3.0, "bit_operations": 4.0, "latency_ms": 5.0}
    generator = torch.Generator()
    context = EvaluationContext(task, generator, torch.device("cpu"), 1.0, model, known)
    evaluator = Cost(CostSettings(latency=True))
    assert evaluator.evaluate(model, context) == known
    assert set(evaluator.metrics) == set(known)
    with pytest.raises(SecateursError, match="needs a table"):
        evaluator.evaluate(model, dataclasses.replace(context, costs={}))
