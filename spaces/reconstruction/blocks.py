"""Blocks of a network: parts with a nonlinearity inside, which answer alike when they are run alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward
from spaces.execution.hooks import first_tensor, temporary_hooks, with_first
from spaces.execution.randomness import kept_randomness
from spaces.reconstruction.structure import linear_maps

SEVERAL = 10
"""Most linear layers of a part that takes the place of the blocks inside it (ours)."""

BENT = 1e-3
"""Least deviation from a straight line, relative to the change along it, of a part that counts as nonlinear (ours)."""


@dataclass(frozen=True)
class BlockCall:
    """A call of a part of a network; its tensors are copies.

    Attributes:
        args: Arguments by position.
        keywords: Arguments by name.
        output: The one floating-point tensor that it returned; None for none, or several.
    """

    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    output: Tensor | None

    def answer(self, module: nn.Module) -> Tensor:
        """Return the output of a module on these arguments, which stay as they are.

        Raises:
            TypeError: The output holds no floating-point tensor, or several.
        """
        args, keywords = _copies((self.args, dict(self.keywords)))
        found = only_tensor(module(*args, **keywords))
        if found is None:
            raise TypeError("expected one floating-point tensor in the output of a block")
        return found

    @property
    def bytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(one.nbytes for one in tree_leaves((self.args, self.keywords, self.output)) if isinstance(one, Tensor))


class _Stop(BaseException):
    """The end of a pass that has seen all it was made for; no Exception, so that a network's own code lets it through."""


@torch.no_grad()
def block_calls(
    model: nn.Module, names: Collection[str], forward: Forward, batch: Nested, seed: int = 0, first: bool = False
) -> dict[str, list[BlockCall]]:
    """Return the calls of parts of a network in one forward pass in evaluation mode, by name, those begun first before others.

    Args:
        model: The network.
        names: Names of the parts.
        forward: Runs the network.
        batch: Its inputs.
        seed: Seed of what the network draws.
        first: End the pass behind the first call.
    """
    found: dict[str, list[BlockCall]] = {}
    running: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def hooks() -> Iterator[RemovableHandle]:
        for name in names:
            module = model.get_submodule(name)
            yield module.register_forward_pre_hook(before(name), with_kwargs=True)
            yield module.register_forward_hook(behind(name), with_kwargs=True)

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: Any, keywords: Any) -> None:
            found.setdefault(name, [])
            running.append(_copies((args, keywords)))

        return hook

    def behind(name: str) -> Any:
        def hook(module: nn.Module, args: Any, keywords: Any, output: Any) -> None:
            only = only_tensor(output)
            found[name].append(BlockCall(*running.pop(), None if only is None else only.clone()))
            if first:
                raise _Stop

        return hook

    with kept_randomness(), evaluation_mode(model), temporary_hooks(hooks()):
        torch.manual_seed(seed)
        with suppress(_Stop):
            forward(model, batch)
    return found


def find_blocks(model: nn.Module, sample: Nested, forward: Forward) -> tuple[str, ...]:
    """Return the names of a network's blocks, in the order in which they run.

    A block is a part that holds a linear layer and a nonlinearity, runs once in a forward pass, reads a floating-point tensor
    and returns a single one, shares no parameter with the rest, and gives the same output when it is run alone. Of parts inside
    each other the smallest counts; but one of at most :data:`SEVERAL` linear layers takes the place of those inside it where it
    has code of its own, such as the addition of a branch, or where none of them has several layers (ours).

    Args:
        model: The network; left unchanged.
        sample: A batch of a single sample.
        forward: Runs the network on it.
    """
    layers = linear_maps(model)
    inside = {name: [layer for layer in layers if layer.startswith(f"{name}.")] for name, _ in model.named_modules() if name}
    holders = {name for name, found in inside.items() if found and name not in layers}
    shared = _shared_parameters(model)
    calls = block_calls(model, holders, forward, sample)
    with kept_randomness(), evaluation_mode(model):
        able = {
            name
            for name, found in calls.items()
            if len(found) == 1 and not shared[name] and is_block(model.get_submodule(name), found[0])
        }

    def chosen(name: str, module: nn.Module) -> list[str]:
        found = [
            block for child, part in module.named_children() for block in chosen(f"{name}.{child}" if name else child, part)
        ]
        if name not in able:
            return found
        adds = not isinstance(module, nn.Sequential) or all(len(inside[block]) == 1 for block in found)
        return [name] if not found or (adds and len(inside[name]) <= SEVERAL) else found

    blocks = set(chosen("", model))
    return tuple(name for name in calls if name in blocks)


def is_block(module: nn.Module, call: BlockCall) -> bool:
    """Return True if a module, run alone, repeats the output of a call, is nonlinear, and has gradients."""
    read = first_tensor(call.args, call.keywords)
    if call.output is None or read is None or not read.is_floating_point() or not read.numel():
        return False
    try:
        with trainable(module), torch.enable_grad():
            answer = call.answer(module)
        if not answer.requires_grad or answer.shape != call.output.shape:
            return False
        scale = float(call.output.abs().max())
        if not float((answer.detach() - call.output).abs().max()) <= 1e-4 * scale:
            return False
        return _bent(module, call, read)
    except Exception:
        # Code that can't be run alone, whatever it needs beside its arguments.
        return False


@torch.no_grad()
def _bent(module: nn.Module, call: BlockCall, read: Tensor) -> bool:
    """Return True if the outputs at three points of a line do not lie on a line."""
    draws = torch.randn(read.shape, generator=torch.Generator().manual_seed(0)).to(read)
    step = draws * (read.std() if read.numel() > 1 else read.abs()).clamp_min(1e-6)

    def at(factor: float) -> Tensor:
        moved = with_first(call.args, call.keywords, lambda tensor: tensor + factor * step)
        return BlockCall(*moved, None).answer(module)

    low, middle, high = at(-1.0), at(0.0), at(1.0)
    return bool((low + high - 2.0 * middle).abs().max() > BENT * (high - low).abs().max() + 1e-12)


@contextmanager
def trainable(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Let the floating-point parameters of a module, which are yielded, have gradients while the context lasts."""
    parameters = [one for one in module.parameters() if one.is_floating_point()]
    asked = [one.requires_grad for one in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield parameters
    finally:
        for parameter, wanted in zip(parameters, asked, strict=True):
            parameter.requires_grad_(wanted)


def only_tensor(output: Any) -> Tensor | None:
    """Return the floating-point tensor in what a module returns; None where there is none, or more than one."""
    found = [one for one in tree_leaves(output) if isinstance(one, Tensor) and one.is_floating_point()]
    return found[0] if len(found) == 1 else None


def _copies(value: Any) -> Any:
    return tree_map(lambda one: one.detach().clone() if isinstance(one, Tensor) else one, value)


def _shared_parameters(model: nn.Module) -> dict[str, bool]:
    """Return, by name of a part, True if one of its parameters is held outside of it as well."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(name)

    def outside(name: str, parameter: nn.Parameter) -> bool:
        return any(holder != name and not holder.startswith(f"{name}.") for holder in holders[id(parameter)])

    parts = [(name, module) for name, module in model.named_modules() if name]
    return {name: any(outside(name, parameter) for parameter in module.parameters()) for name, module in parts}
