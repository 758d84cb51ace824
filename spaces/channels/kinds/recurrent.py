"""Recurrent layers: LSTM, GRU and RNN of any number of layers and directions, and their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from spaces.channels.kinds.tracing import input_atoms, label_output, leave_frozen
from spaces.channels.labels.atoms import along, vector
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind
from spaces.layers.mask_hooks import KeptColumns

_FORWARDS = frozenset(kind.forward for kind in (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell))


@dataclass(frozen=True)
class Recurrent(LayerKind):
    """A recurrent layer; its channels are the last dimension of inputs, outputs and states.

    All layers and directions of a module have one number of hidden units, so that units of the same index leave together. In
    the trace a module is up to three linear maps, an instance each: from the input to the gates, from the state to the gates,
    and, with ``proj_size``, from the hidden units to the state.

    Attributes:
        part: Name of the linear map.
        reads: Names of the weights whose columns read the map's input channels.
        writes: Names of the tensors whose rows write its output channels, those of all gates one below the other.
        announced: Attributes with the number of input and of output channels.
        argument: True if the input channels lie in a tensor that the module is called with.
    """

    part: str = ""
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    announced: tuple[str, ...] = ()
    argument: bool = False

    name = "recurrent"
    modules = (nn.RNNBase, nn.RNNCellBase)
    unquantizable = "the products of a recurrent layer are computed in one function"

    def trace(self, tracker: LabelTracker, output: Any, *args: Any, **kwargs: Any) -> None:
        """Tie the weights of all layers and directions to the input's channels and the hidden units."""
        module = tracker.stack[-1][1]
        if type(module).forward in _FORWARDS:
            self._follow(tracker, module, output, *args, **kwargs)
        else:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            tracker.opaque(f"the forward function of a {type(module).__name__}", tensors)

    def _follow(
        self,
        tracker: LabelTracker,
        module: Any,
        output: Any,
        input: Tensor | PackedSequence,
        hx: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        values = input.data if isinstance(input, PackedSequence) else input
        given = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
        ways, ends = _ends(module)
        first = [f"weight_ih{end}" for end in ends[:ways]]
        weight = getattr(module, first[0])
        atoms = input_atoms(tracker, values, weight, self.modules, values.dim() - 1)
        if atoms is None:
            leave_frozen(tracker, self, weight, module.hidden_size)
            for state in given:
                tracker.freeze(tracker.labels(state), "starts a layer whose weights are computed")
            return
        units, state = _hidden(tracker, module, ends[0])
        self._tie(tracker, module, atoms, units, state)
        for tensor, own in zip(given, (state, units), strict=False):
            _start(tracker, tensor, own)
        returned = output if isinstance(module, nn.RNNBase) else (None, output)
        if returned[0] is not None:
            sequence = returned[0].data if isinstance(returned[0], PackedSequence) else returned[0]
            _label(tracker, sequence, state.repeat(ways))
        ended = (returned[1],) if isinstance(returned[1], Tensor) else returned[1]
        for tensor, own in zip(ended, (state, units), strict=False):
            _label(tracker, tensor, own)
        steps = prod(values.shape[:-1])
        self._record(tracker, module, atoms, units, state, steps, not isinstance(input, PackedSequence))
        samples = ended[0].shape[-2] if ended[0].dim() > 1 else 1
        sizes = {steps * len(atoms): atoms} if len(ends) == 1 else {}
        for own in (units, state):
            gates = getattr(module, first[0]).shape[0] // len(units)
            for count in (steps, steps * gates, steps * ways, samples, samples * gates, samples * len(ends)):
                sizes.setdefault(count * len(own), own)
        sizes.setdefault(steps * len(atoms), atoms)
        tracker.memory.sized(tracker.begun, {count * values.element_size(): own for count, own in sizes.items()})

    def _tie(self, tracker: LabelTracker, module: Any, atoms: Tensor, units: Tensor, state: Tensor) -> None:
        ways, ends = _ends(module)
        for place, end in enumerate(ends):
            rows = units.repeat(getattr(module, f"weight_hh{end}").shape[0] // len(units))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                tracker.tie(getattr(module, name + end, None), 0, rows)
            tracker.tie(getattr(module, f"weight_ih{end}"), 1, atoms if place < ways else state.repeat(ways))
            tracker.tie(getattr(module, f"weight_hh{end}"), 1, state)
            projection = getattr(module, f"weight_hr{end}", None)
            tracker.tie(projection, 0, state)
            tracker.tie(projection, 1, units)

    def _record(
        self, tracker: LabelTracker, module: Any, atoms: Tensor, units: Tensor, state: Tensor, steps: int, argument: bool
    ) -> None:
        ways, ends = _ends(module)
        first, deeper = ends[:ways], ends[ways:]
        gates = float(steps * (getattr(module, f"weight_hh{ends[0]}").shape[0] // len(units)))
        sized = "proj_size" if _projected(module) else "hidden_size"
        entering = Recurrent(
            "input",
            _named(["weight_ih"], first),
            _named(["weight_ih", "bias_ih"], ends),
            ("input_size", "hidden_size"),
            argument,
        )
        tracker.record(entering, atoms, units, gates * ways, 1, -1)
        returning = Recurrent(
            "state",
            (*_named(["weight_hh"], ends), *_named(["weight_ih"], deeper)),
            _named(["weight_hh", "bias_hh"], ends),
            (sized, "hidden_size"),
        )
        tracker.record(returning, state, units, gates * (len(ends) + len(deeper) * ways), 1, -1)
        if _projected(module):
            weights = _named(["weight_hr"], ends)
            projection = Recurrent("projection", weights, weights, ("hidden_size", sized))
            tracker.record(projection, units, state, float(steps * len(ends)), 1, -1)

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return those of ``input_size``, ``hidden_size`` and ``proj_size`` that belong to the map."""
        return dict(zip(self.announced, (inputs, outputs), strict=False))

    def mask_hook(self, channel_dim: int, groups: int) -> KeptColumns:
        """Return the hook that zeroes the columns of the weights that read removed channels."""
        return KeptColumns(channel_dim, self.part, self.reads)

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return the weights and biases of the map, with dimension 0."""
        return tuple((name, 0) for name in self.writes)

    def readers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return the weights that read the map's input channels, with dimension 1."""
        return tuple((name, 1) for name in self.reads)

    def filters(self, module: nn.Module, outputs: int, groups: int) -> Tensor:
        """Return all weights of the map that write a channel, of every gate, layer and direction, as its row."""
        weights = [weight for name in self.writes if (weight := module.get_parameter(name)).dim() == 2]
        rows = [weight.reshape(-1, outputs, weight.shape[1]).transpose(0, 1).flatten(1) for weight in weights]
        return torch.cat(rows, 1)

    @property
    def reads_argument(self) -> bool:
        """True if the input channels lie in a tensor that the module is called with."""
        return self.argument


def _ends(module: Any) -> tuple[int, list[str]]:
    """Return the number of directions, and the ends of the names of the weights of every layer and direction."""
    if isinstance(module, nn.RNNCellBase):
        return 1, [""]
    ways = ("", "_reverse") if module.bidirectional else ("",)
    return len(ways), [f"_l{layer}{way}" for layer in range(module.num_layers) for way in ways]


def _named(tensors: Iterable[str], ends: Iterable[str]) -> tuple[str, ...]:
    return tuple(tensor + end for end in ends for tensor in tensors)


def _projected(module: Any) -> bool:
    return isinstance(module, nn.RNNBase) and module.proj_size > 0


def _hidden(tracker: LabelTracker, module: Any, end: str) -> tuple[Tensor, Tensor]:
    """Return the atoms of the hidden units and of the state that goes to the next step: those of an earlier use, or fresh."""
    earlier = tracker.tied(getattr(module, f"weight_hh{end}"), 0)
    units = tracker.atoms.new(module.hidden_size) if earlier is None else earlier[: module.hidden_size]
    if not _projected(module):
        return units, units
    earlier = tracker.tied(getattr(module, f"weight_hr{end}"), 0)
    state = tracker.atoms.new(module.proj_size) if earlier is None else earlier
    # PyTorch tells a projection by a state that is smaller than the hidden units are many: it stays so, whatever is cut.
    tracker.atoms.unite(state, units[: len(state)])
    tracker.freeze(units[len(state) : len(state) + 1], "a projection has fewer channels than there are hidden units")
    return units, state


def _start(tracker: LabelTracker, tensor: Tensor, own: Tensor) -> None:
    """Let an initial state and the channels of the layer follow each other."""
    if id(tensor) in tracker.names:
        tracker.tie(tensor, tensor.dim() - 1, own)
        return
    if tensor in tracker.fresh:
        tracker.follow(tensor, along(own, tensor.dim() - 1, tensor.shape))
        return
    found = vector(tracker.labels(tensor), tensor.dim() - 1)
    if found is None:
        tracker.freeze(tracker.labels(tensor), "its initial state's channels are not one dimension")
        found = torch.zeros_like(own)
    tracker.unite(found, own, "starts from a state of a fixed size")


def _label(tracker: LabelTracker, tensor: Tensor, atoms: Tensor) -> None:
    label_output(tracker, tensor, atoms, tensor.dim() - 1, "hidden unit")
