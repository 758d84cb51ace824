"""Layers of a network that can be solved for, in the order of the forward pass, and the place where each is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from spaces.execution.batch import Nested
from spaces.execution.forward import Forward
from spaces.layers.layer_kind import kind_of
from spaces.layers.linear_map import LinearMap
from spaces.reconstruction.passage import Arguments, Call, Passage, Value, norm_arguments

CHECKED = 64
"""Positions at which a layer's output is compared with its weight times its patch."""

Shift = Literal["bias", "norm", "free", "none"]
"""Taker of a layer's shift: its bias, the running mean of the norm behind it, a norm that takes its own mean, or nothing."""


@dataclass(frozen=True)
class SolvedLayer:
    """A layer, and where its calls are compared with the dense network's.

    Attributes:
        name: Name of the module.
        positions: Output positions of each of its calls on a single sample.
        sums: Calls that are compared behind the addition that they end in.
        shift: What takes its shift.
        norm: Name of the running mean that takes it, of every call the same; empty for none.
    """

    name: str
    positions: tuple[int, ...]
    sums: frozenset[Call]
    shift: Shift
    norm: str = ""

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of the layer."""
        return tuple(Call(self.name, number) for number in range(len(self.positions)))


@dataclass(frozen=True)
class SharedWeight:
    """Layers with one weight, solved at once; most weights are those of a single layer.

    Attributes:
        layers: The layers, in the order of their first calls.
    """

    layers: tuple[SolvedLayer, ...]

    @property
    def name(self) -> str:
        """Name of the first layer."""
        return self.layers[0].name

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of all layers."""
        return tuple(call for layer in self.layers for call in layer.calls)

    @property
    def sums(self) -> frozenset[Call]:
        """The calls that are compared behind an addition."""
        return frozenset(call for layer in self.layers for call in layer.sums)


def linear_maps(model: nn.Module) -> dict[str, LinearMap]:
    """Return every layer with a stored weight that is linear in its inputs, by module name."""
    found: dict[str, LinearMap] = {}
    for name, module in model.named_modules():
        kind = kind_of(module)
        if kind is not None and "weight" in dict(module.named_parameters(recurse=False)):
            made = kind.linear_map(module)
            if made is not None:
                found[name] = made
    return found


def solved_weights(model: nn.Module, sample: Nested, forward: Forward, sums: bool = True) -> tuple[SharedWeight, ...]:
    """Return the weights of ``model`` that can be solved for, in the order in which their first outputs are compared.

    Left out are layers that compute something else than their weight times their inputs, and weights that code reads outside
    of such layers, such as those of an embedding.

    Args:
        model: The network; left unchanged.
        sample: A batch of a single sample.
        forward: Runs the network on it.
        sums: Compare the last layer of a branch behind the addition that the branch ends in.
    """
    layers = linear_maps(model)
    trace = _Trace(model, layers)
    trace.run(forward, sample)
    chosen = trace.sums() if sums else {}
    places = {**trace.places, **chosen}
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    by_weight: dict[int, list[SolvedLayer]] = {}
    for name, positions in trace.positions.items():
        shift, norm = trace.shift(name)
        summed = frozenset(call for call in chosen if call.layer == name)
        found = by_weight.setdefault(id(layers[name].weight), [])
        found.append(SolvedLayer(name, tuple(positions), summed, shift, norm))
    solved = [
        SharedWeight(tuple(found))
        for weight, found in by_weight.items()
        if len(found) == holders[weight]
        and not any(layer.name in trace.other for layer in found)
        and trace.reads[weight] == sum(len(layer.positions) for layer in found)
    ]
    return tuple(sorted(solved, key=lambda weight: min(places[call] for call in weight.calls)))


class _Trace(Passage):
    """The pass over a single sample by which layers, sums and norms are found."""

    def __init__(self, model: nn.Module, layers: Mapping[str, LinearMap]) -> None:
        super().__init__(model, layers)
        self.positions: dict[str, list[int]] = {}
        self.other: set[str] = set()
        self.reads = {id(layer.weight): 0 for layer in layers.values()}
        self._norms: dict[Call, tuple[Shift, str]] = {}
        self._norm_reads: dict[str, int] = {}
        self._outputs: dict[Call, Value] = {}
        self.places: dict[Call, int] = {}
        self._sums: list[tuple[int, list[Value]]] = []
        self._buffers = {id(tensor): name for name, tensor in model.named_buffers()}

    def called(self, call: Call, arguments: Arguments, output: Tensor) -> bool:
        """Note the call, and check that the layer computes its weight times its inputs."""
        layer = self._layers[call.layer]
        self.positions.setdefault(call.layer, []).append(output.numel() // layer.outputs)
        self.places[call] = self._place()
        if not is_linear(layer, arguments.inputs, output):
            self.other.add(call.layer)
        return True

    def summed(self, values: list[Value], result: Tensor) -> None:
        """Note the summands."""
        self._sums.append((self._place(), values))

    def read(self, value: Value, function: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Note the norm that reads an output."""
        if value.source is not None:
            return
        self._outputs[value.call] = value
        if function is F.batch_norm:
            norm = norm_arguments(args, keywords)
            name = self._buffers.get(id(norm.running_mean), "")
            own = norm.training or norm.running_mean is None
            self._norms[value.call] = ("free", "") if own else ("norm", name) if name else ("none", "")
        elif function is F.instance_norm:
            self._norms[value.call] = ("free", "")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and count the reads of weights and of running means."""
        result = super().__torch_function__(func, types, args, kwargs)
        if not self._quiet and any(isinstance(one, Tensor) for one in tree_leaves(result)):
            for one in tree_leaves((args, kwargs or {})):
                if id(one) in self.reads:
                    self.reads[id(one)] += 1
                elif id(one) in self._buffers:
                    name = self._buffers[id(one)]
                    self._norm_reads[name] = self._norm_reads.get(name, 0) + 1
        return result

    def _place(self) -> int:
        """Return the place of what happens now among calls and additions."""
        return len(self.places) + len(self._sums)

    def sums(self) -> dict[Call, int]:
        """Return the places of additions by the call whose output ends there and nowhere else, of two such the later one."""
        found = {}
        for place, values in self._sums:
            calls = [value.call for value in values if value.exclusive]
            if calls:
                found[max(calls, key=self.places.__getitem__)] = place
        return found

    def shift(self, name: str) -> tuple[Shift, str]:
        """Return what takes the shift of a layer, and the name of the running mean that does."""
        if self._layers[name].bias is not None:
            return "bias", ""
        calls = [Call(name, number) for number in range(len(self.positions[name]))]
        takers = {self._taker(call) for call in calls}
        if len(takers) != 1:
            return "none", ""
        shift, norm = takers.pop()
        if shift == "norm" and self._norm_reads[norm] != len(calls):
            return "none", ""
        return shift, norm

    def _taker(self, call: Call) -> tuple[Shift, str]:
        value = self._outputs.get(call)
        return ("none", "") if value is None or value.uses != 1 else self._norms.get(call, ("none", ""))


def is_linear(layer: LinearMap, inputs: Tensor, output: Tensor) -> bool:
    """Return True if outputs are the weight times patches, and the bias, at some positions."""
    by_position = layer.by_position(output)
    try:
        patches = layer.patches(inputs, output)
    except (RuntimeError, IndexError, ValueError):
        return False
    if patches.shape[: by_position.dim() - 1] != by_position.shape[:-1]:
        return False
    places = torch.linspace(0, by_position[..., 0].numel() - 1, CHECKED, device=output.device).long()
    index = torch.unravel_index(places, by_position.shape[:-1])
    rows = layer.rows(patches[index]).double()
    told = torch.einsum("gnc,goc->ngo", rows, layer.matrices(layer.weight.detach()).double()).flatten(1)
    if layer.bias is not None:
        told = told + layer.bias.detach().double()
    seen = by_position[index].double()
    loose = 1e-3 if output.dtype in (torch.float32, torch.float64) else 3e-2
    return bool((told - seen).abs().max() <= loose * seen.abs().max() + 1e-6)
