"""Units of depth: branches and blocks, and what of a network goes with any choice of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from spaces.residual.flow import Call, Flow
from spaces.residual.stub import PLAIN, Path

LAYER_INDEX, FUSED = "layer_idx", "activation_relu_or_gelu"
"""Attributes: place of a layer in a key-value cache (transformers), and the activation that a fused layer runs (PyTorch)."""

MOVES = frozenset(
    f"aten.{name}.default" for name in "view _unsafe_view permute t expand clone detach alias unsqueeze _to_copy".split()
) | {"aten.transpose.int", "aten.squeeze.dim"}
"""Operators whose result holds the values of their input, and no others."""


@dataclass(frozen=True)
class Unit:
    """A branch, or a block of a chain.

    Attributes:
        name: Name of the module that it is, or of the part of it that costs most.
        edges: Reads of values that end with the unit, as (value, reader).
        passes: Number of the value that stands in the place of another.
        zeroed: Of a branch, ordinal of its addition and place of the term that is the branch; none for a block.
        skipped: Of a block, its module and the argument that passes by; empty for a branch.
        macs_share: Share of the network's multiply-accumulates that leave with it alone.
    """

    name: str
    edges: frozenset[tuple[int, int]]
    passes: Mapping[int, int]
    zeroed: tuple[tuple[int, int], ...] = ()
    skipped: Mapping[str, Path] = field(default_factory=dict)
    macs_share: float = 0.0


@dataclass(frozen=True)
class Removal:
    """Modules that leave a network, with the stubs in their places, as plain data.

    Attributes:
        stubs: By module, the record of its stub.
        attributes: By module that stays, integers that it has instead of its own.
    """

    stubs: Mapping[str, Mapping[str, Any]]
    attributes: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return the removal as JSON data."""
        return {"stubs": dict(self.stubs), "attributes": {name: dict(one) for name, one in self.attributes.items()}}

    def holds(self, name: str) -> bool:
        """Return True if a module, or a tensor of the state, is in a module that leaves."""
        return any(name == one or name.startswith(f"{one}.") for one in self.stubs)

    def resized(self, widths: Mapping[str, tuple[int, int]]) -> Removal:
        """Return the removal from a network whose layers have other widths.

        Args:
            widths: By layer, the dimension of its output that holds channels, counted from the end, and how many these are.
        """
        stubs = dict(self.stubs)
        for name in stubs.keys() & widths.keys():
            dim, width = widths[name]
            sizes = stubs[name]["outputs"].get("zero", ())
            if len(sizes) >= -dim:
                outputs = {"zero": [width if at == len(sizes) + dim else size for at, size in enumerate(sizes)]}
                stubs[name] = {**stubs[name], "outputs": outputs}
        return Removal(stubs, self.attributes)


@dataclass(frozen=True)
class _Part:
    """A module without its tensors.

    Attributes:
        kind: Its class, for comparison with those of others.
        parts: Names of its own parts.
        container: Whether it is a list or mapping of modules, which is never called.
        chain: Whether it is a Sequential.
        keeps: Its plain attributes.
        parameters: Names of its own parameters and buffers.
        fused: Whether it may run as one operator, which reads the weights of its parts.
    """

    kind: str
    parts: tuple[str, ...]
    container: bool
    chain: bool
    keeps: Mapping[str, Any]
    parameters: tuple[str, ...]
    fused: bool

    @staticmethod
    def of(module: nn.Module) -> _Part:
        """Return ``module`` without its tensors."""
        own = vars(nn.Module()).keys()
        keeps = {
            name: value
            for name, value in vars(module).items()
            if type(value) in PLAIN and name not in own and name.isidentifier() and not name.startswith("_")
        }
        return _Part(
            f"{type(module).__module__}.{type(module).__qualname__}",
            tuple(name for name, _ in module.named_children()),
            isinstance(module, nn.ModuleList | nn.ModuleDict),
            isinstance(module, nn.Sequential),
            keeps,
            tuple(name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))),
            isinstance(module, nn.TransformerEncoderLayer),
        )


class FlowGraph:
    """A recorded pass, and what of it nothing needs once some of its reads end.

    Args:
        model: The network that the pass is of; nothing of it is kept.
        flow: The pass.
        macs: Multiply-accumulates by module, which counts them as its own, for a batch of one.
    """

    def __init__(self, model: nn.Module, flow: Flow, macs: Mapping[str, int]) -> None:
        """Collect who reads a value, and the values that are made inside every module."""
        self.flow, self.macs = flow, macs
        self.parts = {name: _Part.of(module) for name, module in model.named_modules()}
        self.total = sum(macs.values())
        self.readers: list[list[int]] = [[] for _ in flow.nodes]
        for number, node in enumerate(flow.nodes):
            for read in node.reads:
                self.readers[read].append(number)
        self.inside: dict[str, set[int]] = {}
        for number, node in enumerate(flow.nodes):
            for name in {flow.calls[call].name for call in node.calls}:
                self.inside.setdefault(name, set()).add(number)
        self.calls: dict[str, list[Call]] = {}
        for call in flow.calls:
            self.calls.setdefault(call.name, []).append(call)
        used = {id(tensor): flow.parameters.get(name) for name, tensor in _state(model)}
        names = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self._values: dict[str, set[int]] = {}
        for name, tensor in names:
            if (value := used.get(id(tensor))) is not None:
                for holder in _holders(name):
                    self._values.setdefault(holder, set()).add(value)
        weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        counted = [f"{name}." for name, own in macs.items() if own]
        self._weighted = {holder for name in (*weights, *counted) for holder in _holders(name)}

    @cached_property
    def idle(self) -> set[int]:
        """Values that nothing needs in the whole network."""
        return self.dead(())

    def dead(self, units: Iterable[Unit]) -> set[int]:
        """Return the values that nothing needs once ``units`` are gone."""
        edges, passes, needed = set[tuple[int, int]](), dict[int, int](), set[int]()
        for unit in units:
            edges |= unit.edges
            passes |= unit.passes
        outputs = {resolved(number, passes) for number in self.flow.outputs}
        for unit in units:
            needed |= {resolved(number, passes) for number in unit.passes.values()}
        found = set[int]()
        for number in range(len(self.flow.nodes) - 1, -1, -1):
            if number in outputs or number in needed:
                continue
            if all((number, reader) in edges or reader in found for reader in self.readers[number]):
                found.add(number)
        return found

    def removal(self, units: Sequence[Unit]) -> Removal:
        """Return the modules that leave with ``units``, the largest that are wholly gone."""
        passes = {value: place for unit in units for value, place in unit.passes.items()}
        whole = {name for unit in units for name in unit.skipped}
        stubs = dict(self._stubs("", self.dead(units), passes, whole))
        return Removal(stubs, self._attributes(stubs))

    def left_macs(self, removal: Removal, units: Sequence[Unit]) -> int:
        """Return the multiply-accumulates of one sample that are left."""
        left = sum(macs for name, macs in self.macs.items() if not removal.holds(name))
        return left - self.macs_beside(removal, units)

    def macs_beside(self, removal: Removal, units: Sequence[Unit]) -> int:
        """Return the multiply-accumulates that go in the code of modules which stay, as they are products of zeros then."""
        nodes = [self.flow.nodes[number] for number in self.dead(units) - self.idle if self.flow.nodes[number].macs]
        return sum(node.macs for node in nodes if not any(removal.holds(self.flow.calls[call].name) for call in node.calls))

    def products_beside(self, units: Sequence[Unit]) -> dict[str, list[int]]:
        """Return, by module, the places of those of its own operators with multiply-accumulates that nothing needs any more."""
        dead, found, counts = self.dead(units), dict[str, list[int]](), dict[str, int]()
        for number, node in enumerate(self.flow.nodes):
            if node.macs and node.calls:
                name = self.flow.calls[node.calls[-1]].name
                counts[name] = counts.get(name, -1) + 1
                if number in dead:
                    found.setdefault(name, []).append(counts[name])
        return found

    def has_weight(self, name: str) -> bool:
        """Return True if a module has parameters or multiply-accumulates."""
        return name in self._weighted

    def used_elsewhere(self, name: str, dead: Collection[int]) -> bool:
        """Return True if a parameter or buffer of a module is read by what stays."""
        return any(value not in dead for value in self._values.get(name, ()))

    def _stubs(
        self, name: str, dead: set[int], passes: Mapping[int, int], whole: Collection[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the modules below ``name``, itself included, that leave, each with the record of its stub."""
        part = self.parts.get(name)
        if part is None:
            return
        if name in self.calls and name and not part.container and (name in whole or not part.fused) and self.has_weight(name):
            outputs = self._outputs(name, dead, passes)
            # The parts of a chain that values pass through keep their places in it.
            if outputs is not None and not (part.chain and "input" in outputs) and not self.used_elsewhere(name, dead):
                yield name, {"outputs": outputs, "keeps": dict(part.keeps), "parameters": list(part.parameters)}
                return
        for one in part.parts:
            yield from self._stubs(f"{name}.{one}" if name else one, dead, passes, whole)

    def _attributes(self, stubs: Mapping[str, Any]) -> dict[str, dict[str, int]]:
        """Return the integers that modules which stay have instead of their own, by module.

        These are the places of layers in a key-value cache, which are numbered anew, since its length is that of its first
        layer; and the flag by which a layer of an encoder may run as one operator, without its parts.
        """
        removal, found = Removal(stubs, {}), dict[str, dict[str, int]]()
        alike: dict[tuple[str, str], list[str]] = {}
        for name, part in self.parts.items():
            if type(part.keeps.get(LAYER_INDEX)) is int:
                alike.setdefault((part.kind, name.rpartition(".")[2]), []).append(name)
            inner = any(_inside(one, name) for one in stubs) if part.fused and not removal.holds(name) else False
            if inner and type(part.keeps.get(FUSED)) is int:
                found[name] = {FUSED: 0}
        for names in alike.values():
            indices = sorted(self.parts[name].keeps[LAYER_INDEX] for name in names)
            left = sorted((self.parts[name].keeps[LAYER_INDEX], name) for name in names if not removal.holds(name))
            if len(left) < len(names) and indices == list(range(len(names))):
                for place, (before, name) in enumerate(left):
                    if place != before:
                        found.setdefault(name, {})[LAYER_INDEX] = place
        return found

    def _outputs(self, name: str, dead: set[int], passes: Mapping[int, int]) -> dict[str, Any] | None:
        """Return the structure of the outputs of a module that is wholly gone; None for one that stays."""
        inside = self.inside.get(name, set())
        if not inside <= dead | passes.keys() or inside <= self.idle:
            return None
        found = [self._structure(call, call.outputs, inside, passes) for call in self.calls[name]]
        return found[0] if all(one == found[0] for one in found) else None

    def _structure(
        self, call: Call, part: Mapping[str, Any] | None, inside: set[int], passes: Mapping[int, int]
    ) -> dict[str, Any] | None:
        if part is None:
            return None
        ((kind, content),) = part.items()
        if kind == "value":
            return {kind: content}
        if kind == "tensor":
            place = resolved(content, passes)
            path = next((path for path, (value, _) in call.given.items() if resolved(value, passes) == place), None)
            if path is not None:
                return {"input": path}
            return {"zero": _sizes(call, call.shapes[content])} if place in inside else None
        if kind == "mapping":
            named = {name: self._structure(call, one, inside, passes) for name, one in content.items()}
            return None if None in named.values() else {kind: named}
        parts = [self._structure(call, one, inside, passes) for one in content]
        return None if None in parts else {kind: parts}


def resolved(number: int, passes: Mapping[int, int]) -> int:
    """Return the value that stands in the place of ``number`` at last."""
    while number in passes:
        number = passes[number]
    return number


def _sizes(call: Call, shape: tuple[int, ...]) -> list[Any]:
    """Return every size of a tensor as a number, or as (argument, dimension, size) of an input of the same size."""
    alike = sorted(call.given.items(), key=lambda item: len(item[1][1]) != len(shape))
    found: list[Any] = []
    for dim, size in enumerate(shape):
        path = next((path for path, (_, other) in alike if other[dim : dim + 1] == (size,)), None)
        found.append(size if path is None else [path, dim, size])
    return found


def _holders(name: str) -> list[str]:
    """Return the names of all modules that hold a tensor, but for the network itself."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: place + 1]) for place in range(len(parts))]


def _inside(name: str, holder: str) -> bool:
    return name.startswith(f"{holder}.")


def _state(model: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
