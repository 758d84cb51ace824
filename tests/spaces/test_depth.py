"""Depth: branches and blocks leave, with what only they used; the rest answers as with them at zero."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.cost import count_costs
from evaluators.onnx_export import onnx_bytes
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.depth import Depth, DepthSettings
from spaces.errors import InvalidCandidateError, SecateursError, UnsupportedModelError
from spaces.execution.batch import Nested
from spaces.joint import Joint
from spaces.joint_settings import JointSettings
from spaces.latency.layer_latency import Beside
from spaces.networks import digits_cnn, encoder_small, gpt_small, resnet20, unet_small
from spaces.records import RecordError
from spaces.transformation import apply

IDS = torch.arange(1, 9)[None]
IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network whose norms are not at their start, so that none of its parts is without effect."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model


def vit() -> nn.Module:
    import torchvision

    return torchvision.models.VisionTransformer(8, 4, 2, 2, 16, 32, num_classes=5)


def resnet18() -> nn.Module:
    import torchvision

    return torchvision.models.resnet18(num_classes=5)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Nested, int, int]] = {
    "resnet20": (lambda: resnet20(width=4), IMAGE, 7, 7),
    "gpt": (lambda: gpt_small(16, 2, 16, 2, length=8), IDS, 4, 2),
    "encoder": (lambda: encoder_small(16, 3, 2, 16, 2, length=8), {"ids": IDS, "mask": IDS < 6}, 4, 2),
    "vit": (vit, IMAGE, 4, 2),
    "resnet18": (resnet18, IMAGE, 5, 5),
}
"""By name: the network, its input, and how many branches and blocks it has."""


@pytest.mark.parametrize("unit", ["branch", "block"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_small_network_is_the_whole_one_with_branches_at_zero(name: str, unit: str) -> None:
    make, inputs, branches, blocks = NETWORKS[name]
    model = seeded(make)
    space = Depth(model, inputs, DepthSettings(unit=unit))  # type: ignore[arg-type]
    assert len(space.units) == (branches if unit == "branch" else blocks)
    assert not space.frozen
    rng = np.random.default_rng(1)
    for candidate in (space.sample(rng), space.sample(rng), space.cheapest()):
        assert space.check(model, candidate) <= 1e-9
        small = space.realize(model, candidate)
        counted = count_costs(small, inputs)
        assert {key: value for key, value in space.costs(candidate).items() if key in counted} == counted
        rebuilt = apply(copy.deepcopy(model), json.loads(json.dumps(space.transformation(candidate))))
        rebuilt.load_state_dict(small.state_dict())
    assert len(small.state_dict()) < len(model.state_dict())


def test_a_branch_takes_its_norms_along_and_leaves_the_one_behind_the_addition() -> None:
    model = seeded(vit)
    space = Depth(model, IMAGE)
    gone = "encoder.layers.encoder_layer_0.mlp"
    small = space.realize(model, Candidate({name: int(name != gone) for name in space.domains}))
    left = {name for name in small.state_dict() if "encoder_layer_0" in name}
    assert {name.split(".")[3] for name in left} == {"ln_1", "self_attention"}
    after = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    inputs = torch.randn(1, 4, 8)
    space = Depth(after, inputs)
    (attention, _) = space.domains
    small = space.realize(after, Candidate({name: int(name != attention) for name in space.domains}))
    torch.testing.assert_close(small(inputs), after.norm2(after.norm1(inputs) + after._ff_block(after.norm1(inputs))))


def test_what_is_read_elsewhere_stays() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.first, self.second = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            read = self.norm(x)
            return self.head(x + self.first(read) + self.second(read))

    model, inputs = seeded(Shared), torch.randn(1, 6)
    space = Depth(model, inputs)
    assert list(space.domains) == ["first", "second"]
    one = space.realize(model, Candidate({"first": 0, "second": 1}))
    assert {name.split(".")[0] for name in one.state_dict()} == {"norm", "second", "head"}
    none = space.realize(model, Candidate({"first": 0, "second": 0}))
    assert {name.split(".")[0] for name in none.state_dict()} == {"head"}


def test_products_in_the_code_beside_the_addition_go_too() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
            return self.head(x + self.out(mixed))

    model, inputs = seeded(Beside), torch.randn(1, 5, 8)
    space = Depth(model, inputs)
    candidate = space.cheapest()
    assert space.costs(candidate)["macs"] == 5 * 8 * 3 == count_costs(space.realize(model, candidate), inputs)["macs"]


def test_units_that_fail_are_frozen_with_the_reason() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.first(x)
            return self.head(x + self.second(x) * self.second.weight.shape[0])

    space = Depth(seeded(Reading), torch.randn(1, 6))
    assert list(space.domains) == ["first"]
    (frozen,) = space.frozen
    assert frozen.name == "second"
    assert "NoneType" in frozen.reason
    assert frozen.size == 42


@pytest.mark.parametrize(
    ("make", "inputs", "settings", "words"),
    [
        (unet_small, torch.randn(1, 1, 16, 16), {}, "adds nothing to a value"),
        (lambda: digits_cnn(width=4), torch.randn(1, 1, 8, 8), {"unit": "block"}, "no chain of blocks"),
        (lambda: resnet20(width=4), IMAGE, {"exclude": ("stage*",)}, "excluded by the pattern"),
        (lambda: resnet20(width=4), IMAGE, {"include": ("nothing",)}, "nothing"),
    ],
)
def test_nothing_to_remove_is_said(make: Callable[[], nn.Module], inputs: Tensor, settings: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UnsupportedModelError, match=words):
        Depth(seeded(make), inputs, DepthSettings(**settings))


def test_only_so_many_go() -> None:
    model = seeded(NETWORKS["resnet20"][0])
    space = Depth(model, IMAGE, DepthSettings(max_removed=2))
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(60)]
    assert {sum(value == 0 for value in one.values.values()) for one in drawn} == {0, 1, 2}
    assert sum(value == 0 for value in space.cheapest().values.values()) == 2
    assert space.limits == {"removed_units": 2.0}
    too_many = Candidate({name: int(place > 2) for place, name in enumerate(space.domains)})
    assert space.excess(too_many) == 1.0
    with pytest.raises(InvalidCandidateError, match="at most 2 removed units, got 3"):
        space.validate(too_many)


def test_onnx_and_torch_export_hold_nothing_of_it() -> None:
    import onnx

    for name, unit in (("resnet20", "branch"), ("gpt", "block")):
        make, inputs, *_ = NETWORKS[name]
        model = seeded(make)
        space = Depth(model, inputs, DepthSettings(unit=unit))  # type: ignore[arg-type]
        small = space.realize(model, space.cheapest())
        program = torch.export.export(small, (inputs,), strict=False)  # type: ignore[arg-type]
        operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        left = sum(1 for one in small.modules() if type(one) in (nn.Conv2d, nn.Linear))
        assert sum("conv2d" in one or "linear" in one for one in operators) == left
        assert not any("zeros" in one or "empty" in one or "full" in one for one in operators)
        if name == "resnet20":
            nodes = [node.op_type for node in onnx.load_from_string(onnx_bytes(small, inputs)).graph.node]
            assert not {"ConstantOfShape", "Expand"} & set(nodes)
            assert nodes.count("Add") == sum("add" in one for one in operators) == 2
        outputs = program.module()(inputs)
        torch.testing.assert_close(outputs, small(inputs))


def test_a_compiled_form_is_the_same() -> None:
    make, inputs, *_ = NETWORKS["gpt"]
    model = seeded(make)
    space = Depth(model, inputs)
    small = space.realize(model, Candidate({name: place % 2 for place, name in enumerate(space.domains)}))
    strict = torch.export.export(small, (inputs,), strict=True).module()  # type: ignore[arg-type]
    torch.testing.assert_close(strict(inputs), small(inputs))


def test_it_is_trained_and_takes_batches_of_any_size() -> None:
    model = seeded(NETWORKS["gpt"][0])
    space = Depth(model, IDS)
    small = space.prepare(model, Candidate({name: place % 2 for place, name in enumerate(space.domains)})).train()
    logits = small(IDS.expand(3, -1)[:, :5])
    assert logits.shape == (3, 5, 16)
    F.cross_entropy(logits.flatten(0, 1), IDS.expand(3, -1)[:, :5].flatten()).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_channels_are_cut_from_what_is_left() -> None:
    model = seeded(NETWORKS["resnet20"][0])
    space = Depth(model, IMAGE)
    small = space.realize(model, Candidate({name: place % 2 for place, name in enumerate(space.domains)}))
    masks = ChannelMask(small, IMAGE, ChannelMaskSettings(compensate=False))
    candidate = masks.sample(np.random.default_rng(0))
    assert masks.check(small, candidate) <= 1e-9
    assert masks.costs(candidate)["macs"] == count_costs(masks.realize(small, candidate), IMAGE)["macs"]


def test_influence_is_how_far_a_branch_turns_its_value() -> None:
    model = seeded(NETWORKS["resnet20"][0])
    with torch.no_grad():
        model.get_submodule("stage1.1.bn2").weight.zero_()
        model.get_submodule("stage1.1.bn2").bias.zero_()
    batch = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    space = Depth(model, IMAGE, batches=[batch])
    gains = {name: values.tolist() for name, values in space.gains().items()}
    assert min(gains, key=lambda name: gains[name][1]) == "stage1.1"
    assert gains["stage1.1"][1] < 1e-6 < min(values[1] for name, values in gains.items() if name != "stage1.1")
    assert max(values[1] for values in gains.values()) == 1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["stubs"].update({"nowhere": next(iter(record["stubs"].values()))}),
        lambda record: record["stubs"].update({"": next(iter(record["stubs"].values()))}),
        lambda record: next(iter(record["stubs"].values())).update(outputs={"zero": [2**40]}),
        lambda record: next(iter(record["stubs"].values())).update(outputs={"run": "code"}),
        lambda record: next(iter(record["stubs"].values())).update(keeps={"forward": 1}),
        lambda record: next(iter(record["stubs"].values())).update(keeps={"eps": [1]}),
        lambda record: next(iter(record["stubs"].values())).update(parameters=["__class__"]),
        lambda record: record.update(attributes={"stage1": {"training": 1}}),
        lambda record: record.update(attributes={"stage1": 3}),
    ],
)
def test_a_record_of_somebody_else_is_checked(change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    model = seeded(NETWORKS["resnet20"][0])
    space = Depth(model, IMAGE)
    record = json.loads(json.dumps(space.transformation(space.cheapest())))
    change(record)
    with pytest.raises(SecateursError) as caught:
        apply(copy.deepcopy(model), record)
    assert isinstance(caught.value, RecordError)


@pytest.mark.parametrize("given", [0, -1])
def test_options_out_of_range_are_refused(given: int) -> None:
    with pytest.raises(ValueError, match="max_removed"):
        DepthSettings(max_removed=given)


class Milliseconds:
    """A millisecond for every layer, two for every branch, and a thousand for a million products."""

    fixed = 1.0

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        return float(not layer.endswith("attention"))

    def beside(self, beside: Beside) -> float:
        return 1000.0 * beside.products + 2.0 * sum(beside.parts.values())


def test_a_removed_branch_removes_its_time() -> None:
    make, inputs, *_ = NETWORKS["gpt"]
    model = seeded(make)
    space = Depth(model, inputs)
    space.use_latency(Milliseconds())
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    products = sum(2 * 8 * 8 * 16 for _ in range(2)) / 1e3
    whole = Candidate(dict.fromkeys(space.domains, 1))
    assert space.costs(whole)["latency_ms"] == pytest.approx(1.0 + len(layers) + products + 2.0 * 4)
    assert space.latency_beside(whole).parts == {"SelfAttention": 2, "Linear": 2}
    without = whole.joined(Candidate({"blocks.0.attention": 0}))
    assert space.costs(without)["latency_ms"] == pytest.approx(1.0 + len(layers) - 4 + products / 2 + 2.0 * 3)
    assert space.costs(space.cheapest())["latency_ms"] == pytest.approx(1.0 + 1.0)
    joined = Joint(model, inputs, JointSettings(spaces=("channel_mask", "depth")))
    joined.use_latency(Milliseconds())
    both = Candidate({name: "1" * domain.channels for name, domain in joined.domains.items() if domain.channels})
    kept = both.joined(Candidate({part.name: int(part.name != "blocks.0.attention.branch") for part in joined.removable}))
    assert joined.costs(kept)["latency_ms"] == pytest.approx(space.costs(without)["latency_ms"])
