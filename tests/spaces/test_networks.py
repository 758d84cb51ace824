import pytest
import torch
from torch import nn

from spaces import networks
from spaces.fusion.modules import fuse_activations

FACTORIES = ["resnet20", "resnet56", "resnet110", "vgg16_bn", "vgg_small", "mobilenet_v2_small", "digits_cnn", "digits_chains"]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("size", [8, 28])
def test_every_network_gives_one_logit_per_class(factory, size):
    model = getattr(networks, factory)(in_channels=2, classes=7).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 2, size, size)).shape == (1, 7)


# Parameters with identity shortcuts (option A): 0.27 M, 0.85 M and 1.7 M in the paper.
@pytest.mark.parametrize(("depth", "expected"), [(20, 269_722), (56, 853_018), (110, 1_727_962)])
def test_resnets_have_the_papers_depth_and_size(depth, expected):
    model = getattr(networks, f"resnet{depth}")()
    parameters = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(count for name, count in parameters.items() if "shortcut" not in name) == expected
    # Option B: a 1x1 convolution with BatchNorm at the two places where the shape changes, and nowhere else.
    assert sum(count for name, count in parameters.items() if "shortcut" in name) == 16 * 32 + 64 + 32 * 64 + 128
    convolutions = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in name]
    assert len(convolutions) + 1 == depth


def test_width_scales_every_stage():
    model = networks.resnet20(width=8)
    assert model.classifier.in_features == 32
    assert model.conv.out_channels == 8


@pytest.mark.parametrize(("size", "left"), [(3, 3), (8, 2), (28, 3), (32, 2), (64, 2)])
def test_vgg16_skips_pools_that_would_go_below_two_pixels(size, left):
    model = networks.vgg16_bn()
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 13
    with torch.no_grad():
        assert model.eval().features(torch.randn(1, 3, size, size)).shape == (1, 512, left, left)


def test_vgg_small_has_six_convolutions():
    widths = [m.out_channels for m in networks.vgg_small().modules() if isinstance(m, nn.Conv2d)]
    assert widths == [32, 32, 64, 64, 128, 128]


def test_mobilenet_v2_small_is_the_papers_network_with_three_halvings():
    model = networks.mobilenet_v2_small()
    blocks = [m for m in model.modules() if isinstance(m, networks.InvertedResidual)]
    assert (len(blocks), sum(block.adds for block in blocks)) == (17, 10)
    assert sum(p.numel() for p in model.parameters()) == 2_236_682
    with torch.no_grad():
        assert model.eval().features(torch.randn(1, 3, 32, 32)).shape == (1, 1280, 4, 4)


def test_digits_chains_has_three_chains_that_are_merged():
    fused = fuse_activations(networks.digits_chains(width=4).eval(), torch.randn(2, 1, 8, 8))
    assert fused.report.removed == 4
    kinds = [type(m).__name__ for m in fused.model.modules() if isinstance(m, nn.LeakyReLU | nn.PReLU)]
    assert kinds == ["LeakyReLU", "PReLU", "PReLU"]


def test_initial_signal_neither_dies_nor_explodes():
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = networks.resnet56().train()
        features = model.stage3(model.stage2(model.stage1(model.relu(model.bn(model.conv(torch.randn(8, 3, 16, 16)))))))
    assert torch.isfinite(features).all()
    assert 0.1 < float(features.std()) < 100
    assert float(model.classifier.weight.detach().abs().max()) < 0.1


def test_unets_answer_for_every_pixel_and_take_a_step_of_time():
    images, times = torch.randn(2, 2, 16, 20), torch.tensor([0, 4])
    with torch.no_grad():
        assert networks.unet_small(in_channels=2, outputs=5, width=4).eval()(images).shape == (2, 5, 16, 20)
        model = networks.diffusion_unet(in_channels=2, width=4, steps=5).eval()
        assert model(image=images, time=times).shape == images.shape
        assert not torch.equal(model(images, times), model(images, times.flip(0)))


def test_twin_towers_see_both_images_alike():
    first, second = torch.randn(2, 3, 2, 16, 16)
    model = networks.twin_cnn(in_channels=2, classes=4, width=4).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(first, second), model(second, first))
        torch.testing.assert_close(model(first, first), model.classifier.bias.expand(3, 4))
