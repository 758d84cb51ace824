"""Channel groups over torchvision's classification models: nothing crashes, slices are right, most of the MACs are open."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision

from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.check import equivalence_error, half_mask, randomize_batch_norm
from spaces.channels.groups import ChannelGroups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.execution.forward import call
from tests.variants import few

OPEN_FAMILIES = tuple(
    "resnet wide_resnet resnext vgg densenet mobilenet efficientnet regnet convnext googlenet inception squeezenet "
    "mnasnet".split()
)
REQUIRED_SHARE = 0.8
HUGE = ("vit_h", "regnet_y_128gf")

MODELS = [name for name in torchvision.models.list_models(module=torchvision.models) if not name.startswith(HUGE)]


def build(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, **options).eval()
    side = 96 if name == "inception_v3" else 224 if "vit" in name or "swin" in name else 64
    return model, torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def open_convolutions(groups: ChannelGroups) -> float:
    """Return the share of the MACs of convolutions in those that read or write open channels."""
    layers = [layer for layer in groups.layers if layer.kind.name == "conv"]
    opened = [layer for layer in layers if (layer.outputs >= 0).any() or (layer.inputs >= 0).any()]
    return sum(layer.total_macs for layer in opened) / max(1.0, sum(layer.total_macs for layer in layers))


def check(name: str) -> str:
    model, inputs = build(name)
    space = ChannelMask(model, inputs, ChannelMaskSettings(compensate=False))
    groups, share = space.groups, space.open_share()
    error = float("nan")
    if groups.groups:
        mask = half_mask(groups, groups.groups, seed=7)
        randomize_batch_norm(model, inputs, call)
        error = equivalence_error(model, groups, mask, inputs)
        with torch.no_grad():
            assert apply_cut(model, plan_cut(groups, mask))(inputs).shape == model(inputs).shape
    assert all(group.reason for group in groups.frozen)
    if any(name.startswith(family) for family in OPEN_FAMILIES):
        assert share >= REQUIRED_SHARE, {group.name: group.reason for group in groups.frozen}
    reasons = sorted({group.reason.split(": ", 1)[-1] for group in groups.frozen} - {"network output"})
    counts = f"{len(groups.groups):4} open {len(groups.frozen):4} frozen"
    shares = f"{share:6.1%} of the MACs can go, {open_convolutions(groups):6.1%} of conv MACs in open groups"
    return f"{name:22} {counts}  {shares}  {error:8.1e}  {'; '.join(reasons)[:90]}"


@pytest.mark.parametrize("name", few(["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"], 2))
def test_small_models(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::spaces.errors.NetworkWarning")
def test_all_models(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [check(name) for name in MODELS]
    with capsys.disabled():
        print("\n" + "\n".join(rows))
