"""The label tracker: labels of every tensor during one forward pass, and the modules that are running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from spaces.channels.labels.atoms import along, compact
from spaces.channels.labels.beside import BesideRecord
from spaces.channels.labels.counts import counts_in
from spaces.channels.labels.heads import HeadViews
from spaces.channels.labels.masked_calls import CallRecorder
from spaces.channels.labels.stored_views import StoredView, StoredViews
from spaces.channels.labels.trace import WHOLE, ChannelTie, ChannelTrace, LayerTrace, TracedCall, TracedTensor, fractions
from spaces.execution.code_places import running_place
from spaces.execution.hooks import first_tensor, temporary_hooks
from spaces.layers.activation_memory import ActivationMemory, state_of
from spaces.layers.layer_kind import LayerKind, kind_of
from spaces.layers.macs import MacsCounter


class LabelTracker:
    """Labels, running modules and findings of one labelled forward pass of ``model``.

    Attributes:
        trace: The record so far.
        atoms: Its channel atoms.
        names: State names of parameters and buffers, by identity.
        modules: Modules by name.
        stack: The modules that are running, each with its name and first input; the innermost last.
        suspended: Number of layers running whose kind answers for their operators, which are passed over.
        begun: Number of storages of activations when the last layer, or other module outside a layer, began.
        labelled: Labels of the tensors that have any.
        function: Name of the function of torch that code runs, empty outside of one.
        given: Arguments of this function.
        counted: By module and attribute, labels of the channels whose number code reads from the attribute.
        together: Labels of channels that one number counts both of, with the running module and the line of code.
        fresh: Tensors that code made of numbers alone, such as noise, which follow the channels that they meet; each with the
            calls that returned it, or one of its shape that it was made of, and the place in what they returned.
        macs: Counter of multiply-accumulates.
        memory: The storages of activations.
        masking: The calls in which removed channels must have no effect.
        views: Parameters, and what code makes of them by moving their elements.
        beside: Units that tensors have beside their channels.
        heads: The views that part channels into heads.
    """

    def __init__(self, model: nn.Module, heads: HeadViews) -> None:
        self.trace = ChannelTrace()
        self.atoms = self.trace.atoms
        self.names: dict[int, str] = {id(tensor): name for name, tensor in model.named_parameters()}
        self.names |= {id(tensor): name for name, tensor in model.named_buffers()}
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.stack: list[tuple[str, nn.Module, Tensor | None]] = []
        self.suspended = 0
        self.begun = 0
        self.macs = MacsCounter()
        self.masking = CallRecorder()
        self.views = StoredViews()
        self.beside = BesideRecord()
        self.heads = heads
        self.memory = ActivationMemory(state_of(model))
        self.labelled: Any = WeakTensorKeyDictionary()
        self.fresh: Any = WeakTensorKeyDictionary()
        self.function = ""
        self.given: tuple[Any, ...] = ()
        self.counted: dict[tuple[str, str], Tensor] = {}
        self.together: list[tuple[Tensor, Tensor, str, tuple[str, int] | None]] = []
        self._placed: Any = WeakIdKeyDictionary()
        self._tied: dict[tuple[str, int], Tensor] = {}
        self._model = model

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep :attr:`stack` and :attr:`macs` up to date while the context lasts."""

        def enter(name: str, whole: bool) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
                self.stack.append((name, module, first_tensor(args, keywords)))
                self.masking.enter()
                if not self.suspended:
                    self.trace.calls.append(TracedCall("", self.where))
                    self.begun = len(self.memory.activations)
                self.suspended += whole
                self.macs.enter(name)

            return hook

        def leave(kind: LayerKind | None) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
                if kind is not None:
                    if self.suspended == 1:
                        with self.memory.pause():
                            if not kind.follows_beside:
                                given = [leaf for leaf in tree_flatten((args, keywords))[0] if isinstance(leaf, Tensor)]
                                self.beside.follow(self, kind.name, given, output, False)
                            kind.trace(self, output, *args, **keywords)
                    self.suspended -= 1
                if not self.suspended:
                    returned = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
                    self.trace.outputs.setdefault(self.where, []).append(tuple(map(self._traced, returned)))
                self.stack.pop()
                self.masking.leave()
                self.macs.leave(module, args, keywords, output)

            return hook

        def hooks() -> Iterator[RemovableHandle]:
            for name, module in self.modules.items():
                if not isinstance(module, torch.jit.ScriptModule):
                    kind = kind_of(module)
                    whole = kind if kind is not None and not kind.functions else None
                    yield module.register_forward_pre_hook(enter(name, whole is not None), with_kwargs=True)
                    yield module.register_forward_hook(leave(whole), with_kwargs=True)

        with temporary_hooks(hooks()):
            yield

    @contextmanager
    def suspension(self) -> Iterator[None]:
        """Pass over operators while the context lasts."""
        self.suspended += 1
        try:
            yield
        finally:
            self.suspended -= 1

    @contextmanager
    def calling(self, function: str, given: tuple[Any, ...]) -> Iterator[None]:
        """Keep :attr:`function` and :attr:`given` while the context lasts."""
        self.function, self.given = function, given
        try:
            yield
        finally:
            self.function, self.given = "", ()

    def called(self, function: str, args: Any, output: Any) -> None:
        """Add a call of a function of torch to the calls of :attr:`trace`."""
        self.masking.called(self, function, args, output)
        leaves, structure = tree_flatten(output)
        returns = tuple(self._traced(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves)
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf in self.fresh:
                self.fresh[leaf].append((len(self.trace.calls), place))
        read = (self.labelled.get(leaf) for leaf in tree_flatten(args)[0] if isinstance(leaf, Tensor))
        reads = tuple(labels for labels in read if labels is not None)
        numbers = fractions(args)
        self.trace.calls.append(TracedCall(function, self.where, reads, structure, returns, tuple(counts_in(args)), numbers))

    def _traced(self, tensor: Tensor) -> TracedTensor:
        # The shape of a parameter's view follows from the parameter's ties, which may be found later.
        labels = None if self.view_of(tensor) is not None else self.labelled.get(tensor)
        return TracedTensor(tensor.shape, tensor.dtype, tensor.device, labels, self.beside.find(tensor))

    def record(
        self,
        kind: LayerKind,
        inputs: Tensor,
        outputs: Tensor,
        macs: float,
        groups: int,
        channel_dim: int,
        lender: str | None = None,
    ) -> None:
        """Add the running module, or the ``lender`` of its weight, to the layers of :attr:`trace`.

        The other arguments are the fields of :class:`LayerTrace`.
        """
        name, runner = (self.stack[-1][0] if self.stack else ""), None
        if lender is not None:
            name, runner, channel_dim = lender, name, 0
        self.trace.layers.append(LayerTrace(name, kind, inputs, outputs, macs, groups, channel_dim, runner=runner))

    def pass_by(self, kind: LayerKind, inputs: Tensor, outputs: Tensor, macs: float, channel_dim: int, passing: Tensor) -> None:
        """Add the running module, which channels pass through, to the layers; arguments are fields of :class:`LayerTrace`."""
        name = self.stack[-1][0] if self.stack else ""
        self.trace.layers.append(LayerTrace(name, kind, inputs, outputs, macs, 1, channel_dim, passing))

    @property
    def where(self) -> str:
        """Name of the innermost running module."""
        return (self.stack[-1][0] or WHOLE) if self.stack else WHOLE

    def freeze(self, atoms: Tensor, why: str) -> None:
        """Freeze ``atoms`` for a reason that names the running module, ``why``, and the line of the network's code."""
        if bool(atoms.any()):
            self.atoms.freeze(atoms, ", at ".join(filter(None, (f"{self.where}: {why}", running_place()))))

    def owner(self, tensor: Tensor) -> str | None:
        """Return the running module's name if ``tensor`` is its own parameter or buffer, else None."""
        if not self.stack:
            return None
        running = self.stack[-1][1]
        lists = [part for part in running.children() if isinstance(part, nn.ParameterList | nn.ParameterDict)]
        own = [one for part in (running, *lists) for one in (*part.parameters(recurse=False), *part.buffers(recurse=False))]
        return self.where if any(one is tensor for one in own) else None

    def lender(self, weight: Tensor, modules: tuple[type, ...]) -> str | None:
        """Return the name of the module of types ``modules`` whose ``weight`` is used in the code of another; None for none."""
        owner, _, name = self.names.get(id(weight), "").rpartition(".")
        lent = self.owner(weight) is None and name == "weight" and isinstance(self.modules[owner], modules)
        return owner if lent and self.stack else None

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of ``tensor``, int64 of its shape."""
        found = self.found(tensor)
        if found is None:
            return torch.zeros((), dtype=torch.int64).expand(tensor.shape)
        return found

    def found(self, tensor: Tensor) -> Tensor | None:
        """Return the labels of ``tensor``, or of the tensor that it was made of by ``as_subclass``, which no mode sees."""
        found: Tensor | None = self.labelled.get(tensor)
        if found is None and id(tensor) not in self.names and tensor.layout == torch.strided:
            found = self._placed.get(tensor.untyped_storage(), {}).get(_place(tensor))
        return found

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Give ``tensor`` its labels, int64 of its shape."""
        self.labelled[tensor] = labels
        if tensor.layout == torch.strided:
            # By the storage, not the tensor: to hold tensors would change how long activations live.
            self._placed.setdefault(tensor.untyped_storage(), {})[_place(tensor)] = labels
        self.memory.label(tensor, labels)

    def follow(self, tensor: Tensor, labels: Tensor) -> None:
        """Give a fresh tensor labels, as if the calls that made it had: its size is a number of channels."""
        for call, place in self.fresh.pop(tensor):
            recorded = self.trace.calls[call]
            returns = tuple(
                replace(one, labels=labels) if one is not None and number == place else one
                for number, one in enumerate(recorded.returns)
            )
            self.trace.calls[call] = replace(recorded, returns=returns)
        self.set_labels(tensor, labels)

    def tie(self, tensor: Tensor | None, dim: int, atoms: Tensor) -> None:
        """Tie dimension ``dim`` of a parameter or buffer to ``atoms``, of shape ``(size,)``; a second use unites both."""
        if tensor is None:
            return
        name = self.names.get(id(tensor))
        if name is None:
            made = self.found(tensor) if tensor.dim() == 1 else None
            if made is None:
                self.freeze(atoms, "its weight is computed from others, not stored")
            else:
                self.unite(atoms, made, "its weight is computed from values of no channel")
            return
        earlier = self._tied.get((name, dim))
        if earlier is None:
            self._tied[name, dim] = atoms
            self.trace.ties.append(ChannelTie(name, dim, atoms))
            return
        self.unite(earlier, atoms, "shares its weight with a place without channels")

    def unite(self, first: Tensor, second: Tensor, why: str) -> None:
        """Unite atoms pairwise, and freeze those that meet no atom for a reason that ends with ``why``."""
        self.atoms.unite(first, second)
        self.freeze(second[first == 0], why)
        self.freeze(first[second == 0], why)

    def tied(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Return the atoms that an earlier use gave to a dimension of a weight."""
        return self._tied.get((self.names.get(id(tensor), ""), dim))

    def stored_labels(self, tensor: Tensor) -> Tensor:
        """Return labels for a parameter or buffer that meets activations outside a layer: fresh where one dimension is open."""
        wide = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(wide) != 1:
            return self.labels(tensor)
        atoms = self.tied(tensor, wide[0])
        if atoms is None:
            atoms = self.atoms.new(tensor.shape[wide[0]])
            self.tie(tensor, wide[0], atoms)
        return along(atoms, wide[0], tensor.shape)

    def opaque(self, name: str, tensors: list[Tensor]) -> None:
        """Freeze every channel that an operator which is not handled reads."""
        for tensor in tensors:
            if tensor in self.labelled:
                self.freeze(self.labels(tensor), f"{name} is not handled")

    def rectangular(self, labels: Tensor, main: int | None = None) -> Tensor:
        """Unite labels until they change along one dimension only, so that what is kept stays a full block.

        Args:
            labels: The labels.
            main: The dimension; None for the one along which most of them lie.
        """
        small = compact(labels)
        wide = [dim for dim, size in enumerate(small.shape) if size > 1]
        if len(wide) > 1:
            distinct = {dim: len(torch.unique(small.select(dim, 0))) for dim in wide}
            lines = {dim: small.movedim(dim, 0).reshape(small.shape[dim], -1)[:, 0] for dim in wide}
            if main not in wide:
                main = max(wide, key=lambda dim: (len(torch.unique(lines[dim])), -distinct[dim]))
            line = along(lines[main], main, small.shape)
            self.unite(line, small, "joined with values of no channel")
            small = along(lines[main], main, small.shape)
        return small.expand(labels.shape)

    def view_of(self, tensor: Tensor) -> StoredView | None:
        """Return ``tensor`` as a view of a parameter of the network; None for one that is none."""
        return self.views.find(tensor, id(tensor) in self.names)

    def as_stored(self, value: Any) -> Any:
        """Return the parameter that ``value`` is a copy or a reshaping of, element by element; anything else as it is."""
        view = None if not isinstance(value, Tensor) or id(value) in self.names else self.view_of(value)
        return view.parameter if view is not None and view.is_whole(value) else value

    def label_of(self, value: Any) -> Any:
        """Return the labels of a tensor, stored ones included; anything that is no tensor as it is."""
        if not isinstance(value, Tensor):
            return value
        return self.stored_labels(value) if id(value) in self.names else self.labels(value)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return the place of a tensor in its storage."""
    return tensor.storage_offset(), tensor.shape, tensor.stride()
