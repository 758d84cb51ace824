"""Networks for small images (the CIFAR ResNets, VGGs, MobileNetV2, one for the 8x8 digits, U-Nets, pairs) and for text.

Every function is a factory for the configuration (``factory: spaces.networks.resnet20``). Those for images take shape
``(N, in_channels, H, W)`` and, unless they say otherwise, return logits of shape ``(N, classes)``; those for text take tokens,
int64 of shape ``(N, length)``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spaces.dense_networks import DiffusionUNet, TwinNetwork, UNet
from spaces.text_networks import TextEncoder, TextGenerator

__all__ = [
    "diffusion_unet",
    "digits_chains",
    "digits_cnn",
    "encoder_small",
    "gpt_small",
    "mobilenet_v2_small",
    "resnet20",
    "resnet56",
    "resnet110",
    "twin_cnn",
    "unet_small",
    "vgg16_bn",
    "vgg_small",
]


MOBILENET_V2_SMALL = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, number of blocks and stride of the first of every stage of MobileNetV2 for small images."""


def initialize(network: nn.Module) -> None:
    """Set every weight: He normal for convolutions (fan-out), N(0, 0.01) for linear layers, 1 and 0 for norms.

    He, Zhang, Ren, Sun 2015, arXiv 1502.01852.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 3x3 convolution that keeps the size, its BatchNorm and its ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a residual addition.

    The shortcut is the identity, or a 1x1 convolution with BatchNorm where the shape changes (option B of He, Zhang,
    Ren, Sun 2016, arXiv 1512.03385).

    Shapes: ``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Make the layers, for so many input and output channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the block's output."""
        inner: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(inputs)))))
        outputs: Tensor = self.relu2(inner + self.shortcut(inputs))
        return outputs


class SmallResNet(nn.Module):
    """ResNet for small images: a 3x3 stem, three stages of ``blocks`` blocks, of 1, 2 and 4 times ``width`` channels.

    The depth is ``6 * blocks + 2``. He, Zhang, Ren, Sun 2016, arXiv 1512.03385, section 4.2.
    """

    def __init__(self, blocks: int, in_channels: int, classes: int, width: int) -> None:
        """Make the layers, with initialized weights."""
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = self._stage(blocks, width, width, 1)
        self.stage2 = self._stage(blocks, width, 2 * width, 2)
        self.stage3 = self._stage(blocks, 2 * width, 4 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(4 * width, classes)
        initialize(self)

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of shape ``(N, classes)``."""
        features = self.relu(self.bn(self.conv(inputs)))
        features = self.stage3(self.stage2(self.stage1(features)))
        logits: Tensor = self.classifier(self.flatten(self.pool(features)))
        return logits


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise 3x3 and a 1x1 one, and the input added where shapes are equal.

    Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv 1801.04381. Shapes: ``(N, inputs, H, W)`` to
    ``(N, outputs, H / stride, W / stride)``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Build the three convolutions; without an expansion, the first is left out."""
        super().__init__()
        width = inputs * expansion
        wider = [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()] if expansion > 1 else []
        self.branch = nn.Sequential(
            *wider,
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the branch, added to the input where shapes are equal."""
        branch: Tensor = self.branch(inputs)
        return inputs + branch if self.adds else branch


class PoolAboveTwo(nn.MaxPool2d):
    """Max pooling that is skipped where it would take the map below 2 pixels.

    Shapes: ``(N, C, H, W)`` to ``(N, C, H / 2, W / 2)``, or unchanged.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the pooled map."""
        if min(input.shape[-2:]) < 4:
            return input
        pooled: Tensor = super().forward(input)
        return pooled


class PlainNetwork(nn.Module):
    """Convolutions one after the other, global average pooling and a linear classifier."""

    def __init__(self, features: Sequence[nn.Module], channels: int, classes: int) -> None:
        """Put ``features``, of so many output ``channels``, before a new classifier; all weights are initialized."""
        super().__init__()
        self.features = nn.Sequential(*features)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of shape ``(N, classes)``."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(inputs))))
        return logits


def resnet20(in_channels: int = 3, classes: int = 10, width: int = 16) -> nn.Module:
    """Build ResNet-20 for small images: 0.27 M parameters, 41 M MACs at 3x32x32 (He et al. 2016, arXiv 1512.03385)."""
    return SmallResNet(3, in_channels, classes, width)


def resnet56(in_channels: int = 3, classes: int = 10, width: int = 16) -> nn.Module:
    """Build ResNet-56 for small images: 0.86 M parameters, 126 M MACs at 3x32x32 (He et al. 2016, arXiv 1512.03385)."""
    return SmallResNet(9, in_channels, classes, width)


def resnet110(in_channels: int = 3, classes: int = 10, width: int = 16) -> nn.Module:
    """Build ResNet-110 for small images: 1.7 M parameters, 253 M MACs at 3x32x32 (He et al. 2016, arXiv 1512.03385)."""
    return SmallResNet(18, in_channels, classes, width)


def _vgg_features(in_channels: int, stages: Sequence[Sequence[int]]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in stages:
        for outputs in stage:
            layers += conv_bn_relu(channels, outputs)
            channels = outputs
        layers.append(PoolAboveTwo(2))
    return layers


def vgg16_bn(in_channels: int = 3, classes: int = 10) -> nn.Module:
    """Build VGG-16 with BatchNorm for small images: 13 convolutions, global average pooling and one linear layer.

    14.7 M parameters, 313 M MACs at 3x32x32. Simonyan, Zisserman 2015, arXiv 1409.1556, in the form with one linear layer
    that the pruning papers use on small images; pools that would take the map below 2 pixels are skipped.
    """
    stages = [(64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)]
    return PlainNetwork(_vgg_features(in_channels, stages), 512, classes)


def vgg_small(in_channels: int = 3, classes: int = 10) -> nn.Module:
    """Build a small VGG with BatchNorm: six convolutions of 32, 32, 64, 64, 128, 128 channels; 0.29 M parameters.

    After Simonyan, Zisserman 2015, arXiv 1409.1556; pools that would take the map below 2 pixels are skipped.
    """
    return PlainNetwork(_vgg_features(in_channels, [(32, 32), (64, 64), (128, 128)]), 128, classes)


def mobilenet_v2_small(in_channels: int = 3, classes: int = 10) -> nn.Module:
    """Build MobileNetV2 for small images: the 17 blocks of the paper, of which three halve the map; 2.2 M parameters.

    Sandler et al. 2018, arXiv 1801.04381, whose first convolution and second stage halve the map, too; here they keep it
    (ours). 88 M MACs at 3x32x32.
    """
    features: list[nn.Module] = [nn.Conv2d(in_channels, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    channels = 32
    for expansion, outputs, blocks, stride in MOBILENET_V2_SMALL:
        for number in range(blocks):
            features.append(InvertedResidual(channels, outputs, stride if number == 0 else 1, expansion))
            channels = outputs
    features += [nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return PlainNetwork(features, 1280, classes)


def digits_cnn(in_channels: int = 1, classes: int = 10, width: int = 16) -> nn.Module:
    """Build a network for 8x8 digits that trains in seconds: two convolutions, a residual block, one convolution.

    ``width`` channels, then 2 and 4 times as many; 0.04 M parameters, 0.9 M MACs at width 16.
    """
    features = [
        *conv_bn_relu(in_channels, width),
        *conv_bn_relu(width, 2 * width),
        nn.MaxPool2d(2),
        BasicBlock(2 * width, 2 * width),
        *conv_bn_relu(2 * width, 4 * width),
    ]
    return PlainNetwork(features, 4 * width, classes)


def digits_chains(in_channels: int = 1, classes: int = 10, width: int = 16) -> nn.Module:
    """Build a network for 8x8 digits whose three convolutions are followed by chains of activations each.

    Two LeakyReLUs, a PReLU per channel and a LeakyReLU, and three PReLUs, the last of one slope; 0.02 M parameters at width 16.
    """
    chains: list[list[nn.Module]] = [
        [nn.LeakyReLU(0.3), nn.LeakyReLU(0.5)],
        [nn.PReLU(2 * width), nn.LeakyReLU(0.2)],
        [nn.PReLU(4 * width), nn.PReLU(4 * width), nn.PReLU()],
    ]
    features: list[nn.Module] = []
    for outputs, chain in zip((width, 2 * width, 4 * width), chains, strict=True):
        features += [
            nn.Conv2d(in_channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            *chain,
            PoolAboveTwo(2),
        ]
        in_channels = outputs
    return PlainNetwork(features, 4 * width, classes)


def unet_small(in_channels: int = 1, outputs: int = 3, width: int = 8) -> nn.Module:
    """Build a small U-Net for a class, or a number, in every pixel: 0.03 M parameters at width 8 (arXiv 1505.04597).

    Answers are of shape ``(N, outputs, H, W)``; height and width are multiples of 4.
    """
    return UNet(in_channels, outputs, width)


def diffusion_unet(in_channels: int = 1, width: int = 8, steps: int = 50) -> nn.Module:
    """Build a small U-Net for the noise in an image at one of ``steps`` time steps (Ho et al. 2020, arXiv 2006.11239).

    It is called with ``image`` and ``time``, int64 of shape ``(N,)``, and returns the noise, shaped like the image.
    """
    return DiffusionUNet(in_channels, width, steps)


def twin_cnn(in_channels: int = 1, classes: int = 2, width: int = 16) -> nn.Module:
    """Build a network for pairs of images: one tower for both, and a classifier of the difference of their features."""
    return TwinNetwork(in_channels, classes, width)


def gpt_small(
    vocabulary: int = 256,
    blocks: int = 6,
    width: int = 96,
    heads: int = 4,
    hidden: int | None = None,
    length: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a small GPT, logits of the next token at every place (Radford et al. 2019); 0.73 M parameters.

    A vocabulary of 256 is that of bytes. ``hidden`` are the channels inside an MLP, by default four times the width.
    """
    return TextGenerator(vocabulary, vocabulary, blocks, width, heads, hidden, length, dropout, causal=True)


def encoder_small(
    vocabulary: int = 256,
    outputs: int = 2,
    blocks: int = 6,
    width: int = 96,
    heads: int = 4,
    hidden: int | None = None,
    length: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a small encoder like BERT (Devlin et al. 2019, arXiv 1810.04805), logits of whole texts; 0.71 M parameters.

    It is called with ``ids`` and, where short texts are filled up to the length of others, with ``mask``: 0 for what fills up.
    """
    return TextEncoder(vocabulary, outputs, blocks, width, heads, hidden, length, dropout, causal=False)
