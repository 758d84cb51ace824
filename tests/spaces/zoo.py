"""Small networks, one per kind of coupling, for the tests of channel groups and surgery."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


class Plain(nn.Module):
    """Convolutions, flatten, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(3, 8)
        self.second = conv_bn(8, 12)
        self.hidden = nn.Linear(12 * 16, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.second(self.first(x)), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.inner = conv_bn(8, 6)
        self.outer = nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu_(x + self.outer(self.inner(x)))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenation, and a layer that reads a part of several producers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(3, 6)
        self.second = conv_bn(6, 4)
        self.third = conv_bn(10, 4)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([x, self.second(x)], 1)
        x = torch.cat([self.third(x), x], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SplitShuffle(nn.Module):
    """Equal split, channel shuffle, depthwise convolution (ShuffleNet's unit)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branch = nn.Sequential(conv_bn(8, 8), conv_bn(8, 8, groups=8), nn.Conv2d(8, 8, 1))
        self.last = conv_bn(16, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.last(x).mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head((x * scale).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convolution (ResNeXt's bottleneck) and group normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.grouped = nn.Conv2d(16, 32, 3, groups=4, padding=1)
        self.norm = nn.GroupNorm(8, 32)
        self.last = nn.Conv2d(32, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(F.relu(self.norm(self.grouped(self.stem(x)))))).mean((2, 3)))


class Transposed(nn.Module):
    """An encoder and decoder with a skip connection; the output is an image."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=groups)
        self.skip = conv_bn(3, 6)
        self.last = nn.Conv2d(18, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([F.silu(self.up(F.hardswish(self.down(x)))), self.skip(x)], 1))


class LayerNormed(nn.Module):
    """ConvNeXt's block: depthwise convolution, LayerNorm over channels, linear layers, a layer scale, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 16)
        self.narrow = nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.last = nn.GroupNorm(1, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return self.head(self.last(x + self.scale * y).mean((2, 3)))


class Shared(nn.Module):
    """One convolution run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.twice(F.relu(self.twice(x)))).mean((2, 3)))


class Attention(nn.Module):
    """Multi-head attention and an MLP, each added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide = nn.Linear(8, 12)
        self.narrow = nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(1))


class FixedSplit(nn.Module):
    """Splits at fixed positions: must freeze, not break."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.left = nn.Conv2d(3, 6, 1)
        self.right = nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.stem(x), [3, 5], 1)
        return self.head(F.relu(self.left(left) + self.right(right)).mean((2, 3)))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "dense": Dense,
    "split_shuffle": SplitShuffle,
    "squeeze_excite": SqueezeExcite,
    "grouped": Grouped,
    "transposed": Transposed,
    "transposed_grouped": lambda: Transposed(groups=4),
    "layer_normed": LayerNormed,
    "shared": Shared,
    "attention": Attention,
    "fixed_split": FixedSplit,
}


def network(name: str, seed: int = 0) -> nn.Module:
    """Build a network with random weights and BN statistics, so that nothing is zero or one by chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO[name]()
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


def example(name: str) -> Tensor:
    return (
        torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        if name != "attention"
        else torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    )
