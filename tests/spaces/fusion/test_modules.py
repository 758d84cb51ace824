"""Merging in PyTorch: how activations may be written, what must stay apart, and what comes back from JSON."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F

from spaces.errors import EquivalenceError, SecateursError, UnsupportedModelError
from spaces.fusion.modules import Fused, fuse_activations, fuse_graph
from spaces.transformation import apply
from tests.spaces.fusion.activation_zoo import FUNCTIONAL, INPUTS, Code, Untraceable, layers, slopes


def check(model: nn.Module, removed: int, inputs: Tensor = INPUTS, literal: bool = False) -> Fused:
    """Merge, and hold outputs, effects on the input, the second pass and the record to what they should be."""
    model.eval()
    weights = copy.deepcopy(model.state_dict())
    expected, given = run(model, inputs)
    fused = fuse_activations(model, inputs, literal=literal)
    assert fused.report.removed == removed, fused.report.lines()
    found, changed = run(fused.model, inputs)
    tolerance = 0.0 if fused.report.exact else 1e-6
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(changed, given), "another effect on the caller's tensor"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert fuse_activations(fused.model, inputs, literal=literal).report.merges == ()
    if removed:
        record = json.loads(json.dumps(fused.transformation, allow_nan=False))
        rebuilt = apply(forget(copy.deepcopy(model)).train(), record)
        rebuilt.load_state_dict(fused.model.state_dict())
        torch.testing.assert_close(run(rebuilt.eval(), inputs)[0], found, rtol=0, atol=0)
    else:
        assert fused.model is model
        assert fused.transformation is None
    return fused


def run(model: nn.Module, inputs: Tensor) -> tuple[Any, Tensor]:
    given = inputs.clone()
    with torch.no_grad():
        outputs = model(given)
    return outputs, given


def forget(model: nn.Module) -> nn.Module:
    """Return a network as its factory makes it: with other weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.125)
    return model


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_code(name: str) -> None:
    code, removed = FUNCTIONAL[name]
    torch.manual_seed(0)
    fused = check(Code(code), removed)
    if removed:
        assert isinstance(fused.model, fx.GraphModule)


@pytest.mark.parametrize("name", [name for name, (_, removed) in FUNCTIONAL.items() if removed])
def test_code_with_the_patents_types(name: str) -> None:
    code, removed = FUNCTIONAL[name]
    torch.manual_seed(0)
    # A PReLU of slope 1 stays, and there is no in-place PReLU.
    check(Code(code), removed - (name in ("identity", "both in place, input read")), literal=True)


@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        ((nn.ReLU(), nn.ReLU()), nn.ReLU),
        ((nn.ReLU(True), nn.LeakyReLU(0.1)), nn.ReLU),
        ((nn.LeakyReLU(0.5), nn.LeakyReLU(0.5, inplace=True)), nn.LeakyReLU),
        ((nn.LeakyReLU(0.5), slopes(0.5)), nn.PReLU),
        ((slopes(0.5), slopes(0.5, -0.5, 2.0, 0.0)), nn.PReLU),
        ((slopes(-0.5, 0.5, 0.25, -1.0), slopes(0.5, 0.5, 0.5, 0.5), nn.LeakyReLU(0.1)), nn.PReLU),
        ((nn.LeakyReLU(-0.25), nn.ReLU()), nn.PReLU),
        ((nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1, 3)), nn.Hardtanh),
        ((nn.Identity(), nn.ReLU(), nn.Identity(), nn.ReLU()), nn.ReLU),
        ((nn.ReLU6(True), nn.ReLU6(True)), nn.Hardtanh),
        ((nn.LeakyReLU(2.0), nn.LeakyReLU(0.5)), nn.Identity),
    ],
    ids=str,
)
def test_modules_are_replaced_where_they_stand(activations: tuple[nn.Module, ...], expected: type) -> None:
    torch.manual_seed(0)
    gone = expected is nn.Identity
    count = sum(type(activation) is not nn.Identity for activation in activations)
    fused = check(layers(*activations), count - 1 + gone)
    assert type(fused.model) is nn.Sequential
    inner = [type(module) for module in list(fused.model)[1:-1]]
    real = [kind for kind in inner if kind is not nn.Identity]
    assert real == ([] if gone else [expected])
    assert fused.report.merges[0].nodes == tuple(str(index + 1) for index in range(len(activations)))


def test_the_product_of_slopes_is_wrong_where_the_first_is_negative() -> None:
    torch.manual_seed(0)
    fused = check(layers(slopes(-0.5, 0.5, -2.0, 0.0), nn.LeakyReLU(0.5)), 1)
    assert isinstance(fused.model[1], nn.PReLU)
    assert fused.model[1].weight.tolist() == [-0.5, 0.25, -2.0, 0.0]
    assert fused.report.merges[0].activations == ("PReLU -2 to 0.5 (4 slopes)", "LeakyReLU 0.5")


def test_what_was_left_is_told_with_the_reason() -> None:
    def reasons(model: nn.Module) -> str:
        return " | ".join(left.text for left in fuse_activations(model.eval(), INPUTS).report.left)

    assert "read 2 times" in reasons(Code(FUNCTIONAL["two outputs read"][0]))
    assert "its slope is no constant" in reasons(Code(FUNCTIONAL["computed slope"][0]))
    assert "no constant number" in reasons(Code(FUNCTIONAL["computed bound"][0]))
    assert "torch.int32" in reasons(Code(FUNCTIONAL["integers"][0]))
    assert "in place" in reasons(Code(FUNCTIONAL["in place, input read"][0]))
    assert "NaN at minus infinity" in reasons(layers(slopes(-0.5, 0.5, 0.5, 0.5), nn.ReLU()))
    assert "normal numbers of float32" in reasons(layers(nn.LeakyReLU(1e-30), nn.LeakyReLU(1e-30)))
    assert "bends" in reasons(layers(nn.Hardtanh(-1, 1), nn.LeakyReLU(0.1)))
    hooked = layers(nn.ReLU(), nn.ReLU())
    hooked[1].register_forward_hook(lambda module, inputs, output: output * 2)
    assert "hooks" in reasons(hooked)
    assert reasons(layers(nn.ReLU(), nn.Sigmoid(), nn.ELU(), nn.GELU())) == ""


def test_a_class_derived_from_an_activation_is_what_its_code_says() -> None:
    class Loud(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    check(layers(nn.ReLU(), Loud(), nn.ReLU()), 1)
    check(Untraceable(nn.ReLU(), Loud(), nn.ReLU()), 0)


def test_the_dtype_of_the_tensors_decides() -> None:
    model = layers(nn.LeakyReLU(0.001), nn.LeakyReLU(0.001))
    check(model, 1)
    assert fuse_activations(model.half(), INPUTS.half()).report.removed == 0
    assert fuse_activations(model.double(), INPUTS.double()).report.removed == 1
    tiny = layers(nn.LeakyReLU(1e-30), nn.LeakyReLU(1e-30))
    assert fuse_graph(fx.symbolic_trace(tiny.double()))[1].removed == 1


def test_what_torch_fx_can_not_trace_is_read_by_torch_export() -> None:
    torch.manual_seed(0)
    model = Untraceable(nn.LeakyReLU(0.5), slopes(0.5, -1.0, 2.0, 1.0), nn.BatchNorm2d(4), nn.ReLU(), nn.ReLU6())
    fused = check(model, 2)
    assert isinstance(fused.model, Untraceable)
    shared = nn.ReLU()
    assert "used once" in fuse_activations(Untraceable(shared, shared), INPUTS).report.left[0].reason
    both = fuse_activations(Untraceable(nn.ReLU(), nn.LeakyReLU(0.1), functional=True), INPUTS)
    assert both.report.removed == 1
    assert "torch.fx can't trace" in both.report.left[-1].reason


def test_what_nothing_can_read_is_named() -> None:
    class Deciding(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return F.relu(F.relu(inputs)) if inputs.sum() > 0 else inputs

    with pytest.raises(UnsupportedModelError, match=r"neither by torch\.fx .* nor by torch\.export"):
        fuse_activations(Deciding(), INPUTS)


def test_code_that_is_traced_wrongly_is_caught() -> None:
    class Asking(nn.Module):
        def forward(self, inputs: Any) -> Any:
            factor = 2 if isinstance(inputs, Tensor) else 1
            return F.relu(F.relu(inputs)) * factor

    with pytest.raises(EquivalenceError, match="differ by"):
        fuse_activations(Asking(), INPUTS)


def test_a_record_that_does_not_fit_is_named() -> None:
    fused = fuse_activations(Code(FUNCTIONAL["functions"][0]).eval(), INPUTS)
    assert fused.transformation is not None
    with pytest.raises(SecateursError, match="nodes: the network has no 'leaky_relu'; was its factory changed"):
        apply(Code(FUNCTIONAL["between"][0]), fused.transformation)
    fused = fuse_activations(layers(nn.ReLU(), nn.ReLU()), INPUTS)
    assert fused.transformation is not None
    with pytest.raises(SecateursError, match="modules: the network has no '[01]'; was its factory changed"):
        apply(nn.Sequential(nn.Conv2d(3, 4, 3)), fused.transformation)


def doubled(model: nn.Module, pairs: int = 10**9) -> tuple[nn.Module, int]:
    """Put a second activation behind the first ones, in place where they are; return how many."""
    places = [name for name, module in model.named_modules() if type(module) in (nn.ReLU, nn.ReLU6)][:pairs]
    for name in places:
        first = model.get_submodule(name)
        second = nn.LeakyReLU(0.1, inplace=True) if type(first) is nn.ReLU else nn.ReLU6(inplace=True)
        model.set_submodule(name, nn.Sequential(first, second))
    return model, len(places)


def torchvision_model(name: str) -> tuple[nn.Module, Tensor]:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, **options).eval()
    side = 96 if name == "inception_v3" else 224 if "vit" in name or "swin" in name else 64
    return model, torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def calls(model: nn.Module, places: int) -> int:
    """Return how often the activations that `doubled` doubles are called."""
    kinds = (nn.ReLU, nn.ReLU6)
    traced = fx.symbolic_trace(model)
    found = [
        node for node in traced.graph.nodes if node.op == "call_module" and type(traced.get_submodule(node.target)) in kinds
    ]
    assert len(found) >= places
    return len(found)


def check_torchvision(name: str) -> None:
    model, inputs = torchvision_model(name)
    fused = fuse_activations(model, inputs)
    assert fused.report.merges == (), [merge.text for merge in fused.report.merges]
    assert fused.model is model
    places = [one for one, module in model.named_modules() if type(module) in (nn.ReLU, nn.ReLU6)]
    expected = calls(model, len(places)) if places else 0
    model, _ = doubled(model)
    fused = fuse_activations(model, inputs)
    assert fused.report.removed == expected, name
    assert fused.error == 0.0
    if expected:
        again = fuse_activations(fused.model, inputs)
        assert again.report.merges == ()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_torchvision(name: str) -> None:
    check_torchvision(name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_of_torchvision() -> None:
    huge = ("vit_h", "regnet_y_128gf")
    for name in torchvision.models.list_models(module=torchvision.models):
        if not name.startswith(huge):
            check_torchvision(name)
