"""Folding: layers whose own code computes the weight of each run, such as by weight standardization, as plain layers.

Recognized by behaviour: the module's result is that of one convolution or linear function on its argument, and the weight is
the same for other inputs, in training and evaluation, so that it depends on the module's own tensors alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spaces.cloning.clone import clone

_WORDS = ("weight", "bias", "stride", "padding", "dilation", "groups")
_CONVOLUTIONS: dict[Any, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
}


class SamePaddedConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding "SAME": the output has the input's size divided by the stride, rounded up."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad as the size of ``x`` requires, one more at the end where the number is odd, and convolve."""
        height, width = (
            max((-(-x.shape[2 + dim] // self.stride[dim]) - 1) * self.stride[dim] + reach - x.shape[2 + dim], 0)
            for dim, reach in enumerate(_reach(self))
        )
        x = F.pad(x, [width // 2, width - width // 2, height // 2, height - height // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def folded(module: nn.Module) -> nn.Module | None:
    """Return the plain layer with the weight that ``module`` computes; None where it computes none, or by more than itself.

    Args:
        module: Any module; left unchanged.
    """
    if not _suspect(module):
        return None
    own = clone(module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for inputs in _inputs(own):
            layer = _plain(own, inputs)
            if layer is not None:
                return layer
    return None


def _suspect(module: nn.Module) -> bool:
    """Return True for a single module of a person's with a weight and without hooks, which is worth a try."""
    kind = type(module)
    plain = kind.__module__.startswith("torch.") or any(True for _ in module.children())
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not plain and not hooked and any(one.dim() > 1 for one in module.parameters(recurse=False))


def _inputs(module: nn.Module) -> Iterator[Tensor]:
    """Yield random inputs of the shapes that a layer with one of the module's parameters as the weight may take."""
    groups = vars(module).get("groups", 1)
    for weight in module.parameters(recurse=False):
        if weight.dim() > 1 and weight.is_floating_point():
            channels = weight.shape[1] * (groups if isinstance(groups, int) and weight.dim() > 2 else 1)
            size = [2 * kernel + 5 for kernel in weight.shape[2:]]
            yield torch.randn((1, channels, *size), dtype=weight.dtype).to(weight.device)


def _plain(module: nn.Module, inputs: Tensor) -> nn.Module | None:
    first = _run(module.eval(), inputs)
    if first is None or isinstance(first.given["weight"], nn.Parameter):
        return None
    others = [_run(module.eval(), inputs.flip(-1) * 2.0), _run(module.train(), inputs)]
    if any(other is None or not _same(first.given, other.given) for other in others):
        return None
    layer = first.layer(inputs)
    if layer is None:
        return None
    # At other sizes it must be the same: padding may follow the size.
    longer = [inputs] if inputs.dim() < 3 else [inputs, torch.cat([inputs, inputs[..., :3]], -1), inputs[..., 1:]]
    if any(not torch.allclose(layer(one), module.eval()(one), rtol=1e-4, atol=1e-5) for one in longer):
        return None
    trained = any(parameter.requires_grad for parameter in module.parameters())
    return layer.requires_grad_(trained).eval()


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return True if the arguments of two calls are equal, but for the input."""
    for word in _WORDS:
        one, other = first.get(word), second.get(word)
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            if one.shape != other.shape or not torch.equal(one, other):
                return False
        elif one is not other and one != other:
            return False
    return True


class _Call(TorchFunctionMode):
    """Keeps the last convolution or linear function of a run, and its arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.function: Any = None
        self.given: dict[str, Any] = {}
        self.output: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _CONVOLUTIONS or func is F.linear:
            names = ("input", *_WORDS)
            self.function, self.output = func, output
            self.given = dict(zip(names, args, strict=False)) | (kwargs or {})
        return output

    def layer(self, inputs: Tensor) -> nn.Module | None:
        """Return the plain layer of the call; None where its input is not ``inputs``, as they are or padded."""
        weight, bias = self.given["weight"].detach().clone(), self.given.get("bias")
        made: nn.Module
        if self.function is F.linear:
            if self.given["input"] is not inputs:
                return None
            made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        else:
            kind: Any = _CONVOLUTIONS[self.function]
            padding = self.given.get("padding", 0)
            if self.given["input"] is not inputs:
                if kind is not nn.Conv2d or any(tree_leaves(padding)):
                    return None
                kind = SamePaddedConv2d
            groups = self.given.get("groups", 1)
            made = kind(
                weight.shape[1] * groups,
                weight.shape[0],
                tuple(weight.shape[2:]),
                self.given.get("stride", 1),
                padding,
                self.given.get("dilation", 1),
                groups,
                bias is not None,
                device="meta",
            )
        made.weight = nn.Parameter(weight)
        if bias is not None:
            made.bias = nn.Parameter(bias.detach().clone())
        return made


def _run(module: nn.Module, inputs: Tensor) -> _Call | None:
    """Return the layer function that a run of ``module`` ends with; None if it fails, or ends with anything else."""
    call = _Call()
    try:
        with call:
            output = module(inputs)
    except Exception:
        return None
    return call if call.function is not None and output is call.output else None


def _reach(layer: nn.Conv2d) -> tuple[int, ...]:
    """Return the extent of the kernel along every dimension, its gaps included."""
    return tuple(dilation * (size - 1) + 1 for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True))


def origin_of(module: nn.Module) -> str:
    """Return what computes the weight of a layer, in words."""
    return f"the forward of {type(module).__name__}"
