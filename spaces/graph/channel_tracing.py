"""Tracing: which channels of a network belong together, found by running it once on labelled tensors.

Every tensor carries a label per element (see :mod:`spaces.graph.channel_labels`). Operators that only move data run on the
labels as they run on the data, so concatenation, splitting, flattening and channel shuffles are exact by construction;
element-wise operators unite the labels they bring together; layers with weights tie their weight dimensions to labels;
anything else freezes the channels it reads, with its name as the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from spaces.graph.channel_labels import along, compact, varying
from spaces.graph.layer_rules import LAYER_RULES, OPAQUE_FUNCTIONS
from spaces.graph.trace import Tie, Trace

VIEWS = frozenset("view reshape _unsafe_view _reshape_alias flatten unflatten view_as".split())
SAME = frozenset("_to_copy to clone contiguous lift_fresh detach alias".split())
MOVES = (
    VIEWS
    | SAME
    | frozenset(
        "as_strided permute transpose t expand squeeze unsqueeze cat concat concatenate stack movedim repeat flip copy_ "
        "expand_as swapaxes unbind pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle".split()
    )
)
SPLITS = frozenset("split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk".split())
POSITIONS = frozenset("slice select roll narrow".split())
REDUCTIONS = frozenset("mean sum amax amin max min var std norm linalg_vector_norm prod logsumexp".split())
WINDOWS = ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "upsample", "reflection_pad", "replication_pad")
ACTIVATIONS = frozenset(
    "hardswish hardsigmoid hardtanh hardshrink softshrink silu gelu mish elu selu celu leaky_relu rrelu softplus log_sigmoid "
    "prelu _prelu_kernel dropout native_dropout bernoulli".split()
)
ALONG_DIM = frozenset("softmax _softmax log_softmax _log_softmax cumsum".split())
IGNORED = frozenset("zeros_like ones_like empty_like rand_like new_zeros new_ones new_empty sym_size size".split())


class Tracer:
    """Runs a network once and follows its channels."""

    def __init__(self, model: nn.Module) -> None:
        self.trace = Trace()
        self.atoms = self.trace.atoms
        self.names: dict[int, str] = {id(tensor): name for name, tensor in model.named_parameters()}
        self.names |= {id(tensor): name for name, tensor in model.named_buffers()}
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.stack: list[tuple[str, nn.Module, Tensor | None]] = []
        self.suspended = False
        self._labels: Any = WeakTensorKeyDictionary()
        self._tied: dict[tuple[str, int], Tensor] = {}
        self._model = model

    def run(self, forward: Callable[[nn.Module, Tensor], Any], inputs: Tensor) -> Trace:
        """Trace one forward pass in evaluation mode; the outputs are frozen."""
        modes = {name: module.training for name, module in self.modules.items()}
        self._model.eval()
        try:
            with torch.no_grad(), self._hooks(), _Dispatch(self), _Functions(self):
                outputs = forward(self._model, inputs)
        finally:
            for name, module in self.modules.items():
                module.training = modes[name]
        for output in tree_flatten(outputs)[0]:
            if isinstance(output, Tensor):
                self.atoms.freeze(self.labels(output), "network output")
        return self.trace

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        handles = []

        def enter(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                first = args[0] if args and isinstance(args[0], Tensor) else None
                self.stack.append((name, module, first))

            return hook

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.stack.pop()

        for name, module in self.modules.items():
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(enter(name)))
                handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def where(self) -> str:
        """The name of the module that is running."""
        return (self.stack[-1][0] or "the network itself") if self.stack else "the network itself"

    def owner(self, tensor: Tensor) -> str | None:
        """Return the running module's name if ``tensor`` is its own weight, else None."""
        name = self.names.get(id(tensor), "")
        return self.where if self.stack and name.rpartition(".")[0] == self.stack[-1][0] else None

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of ``tensor``, int64 of its shape."""
        found: Tensor | None = self._labels.get(tensor)
        if found is None:
            return torch.zeros((), dtype=torch.int64).expand(tensor.shape)
        return found

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        self._labels[tensor] = labels

    def tie(self, tensor: Tensor | None, dim: int, atoms: Tensor) -> None:
        """Let dimension ``dim`` of a parameter or buffer follow ``atoms``; a second use unites both."""
        if tensor is None:
            return
        name = self.names.get(id(tensor))
        if name is None:
            self.atoms.freeze(atoms, f"{self.where}: its weight is computed from others, not stored")
            return
        earlier = self._tied.get((name, dim))
        if earlier is None:
            self._tied[name, dim] = atoms
            self.trace.ties.append(Tie(name, dim, atoms))
            return
        self.atoms.unite(earlier, atoms)
        self.atoms.freeze(atoms[earlier == 0], f"{self.where}: shares its weight with a place without channels")
        self.atoms.freeze(earlier[atoms == 0], f"{self.where}: shares its weight with a place without channels")

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

    def propagate(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Give the outputs of an operator their labels."""
        name = operator.overloadpacket.__name__
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        stored = any(id(tensor) in self.names for tensor in tensors)
        labelled = any(tensor in self._labels for tensor in tensors)
        if not (labelled or stored) or name in IGNORED:
            return
        if not labelled and name not in MOVES:
            return
        base = name.rstrip("_")
        if name in MOVES or base in MOVES:
            self._move(operator, args, kwargs, output)
        elif base in SPLITS:
            self._split(operator, args, kwargs, output)
        elif base in POSITIONS:
            self._position(operator, base, args, kwargs, output)
        elif base == "constant_pad_nd":
            self._pad(args, output)
        elif torch.Tag.pointwise in operator.tags or base in ACTIVATIONS:
            self._pointwise(base, tensors, output)
        elif base in REDUCTIONS:
            self._reduce(base, args, kwargs, output)
        elif base.lstrip("_").startswith(WINDOWS):
            self._window(base, args, output)
        elif base in ALONG_DIM and args[1] % args[0].dim() not in varying(self.labels(args[0])):
            self.set_labels(output, self.labels(args[0]))
        else:
            self.opaque(base, tensors)

    def opaque(self, name: str, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if tensor in self._labels:
                self.atoms.freeze(self.labels(tensor), f"{self.where}: {name} is not handled")

    def _label_of(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return self.stored_labels(value) if id(value) in self.names else self.labels(value)

    def _move(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        name = operator.overloadpacket.__name__
        if name in SAME:
            self.set_labels(output, self._label_of(args[0]))
            return
        if name == "copy_":
            self.set_labels(args[0], self._label_of(args[1]).expand(args[0].shape))
            return
        if name in VIEWS:
            self.set_labels(output, self._rectangular(self._label_of(args[0]).reshape(output.shape)))
            return
        if name == "as_strided":
            if args[0].numel() != output.numel() or args[0].shape != output.shape:
                self.opaque(name, [args[0]])
            else:
                self.set_labels(output, self._label_of(args[0]))
            return
        moved = operator(*tree_map(self._label_of, args), **tree_map(self._label_of, kwargs))
        if isinstance(output, Tensor):
            self.set_labels(output, self._rectangular(moved))
        else:
            for part, labels in zip(output, moved, strict=True):
                self.set_labels(part, self._rectangular(labels))

    def _rectangular(self, labels: Tensor) -> Tensor:
        """Unite labels until they change along one dimension only, so that what is kept stays a full block."""
        small = compact(labels)
        wide = [dim for dim, size in enumerate(small.shape) if size > 1]
        if len(wide) > 1:
            distinct = {dim: len(torch.unique(small.select(dim, 0))) for dim in wide}
            lines = {dim: small.movedim(dim, 0).reshape(small.shape[dim], -1)[:, 0] for dim in wide}
            main = max(wide, key=lambda dim: (len(torch.unique(lines[dim])), -distinct[dim]))
            line = along(lines[main], main, small.shape)
            self.atoms.unite(line, small)
            self.atoms.freeze(line[small == 0], f"{self.where}: joined with values of no channel")
            self.atoms.freeze(small[line == 0], f"{self.where}: joined with values of no channel")
            small = along(lines[main], main, small.shape)
        return small.expand(labels.shape)

    def _split(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        labels = self._label_of(args[0])
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % labels.dim()
        parts = operator(labels, *args[1:], **kwargs)
        if dim in varying(labels):
            if all(part.shape == parts[0].shape for part in parts):
                for part in parts[1:]:
                    self.atoms.unite(parts[0], part)
                    self.atoms.freeze(parts[0][part == 0], f"{self.where}: split beside values of no channel")
                    self.atoms.freeze(part[parts[0] == 0], f"{self.where}: split beside values of no channel")
            else:
                self.atoms.freeze(labels, f"{self.where}: split into parts of fixed, unequal size")
        for part, tensor in zip(parts, output, strict=True):
            self.set_labels(tensor, part)

    def _position(self, operator: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        labels = self._label_of(args[0])
        if name == "roll":
            dims = args[2] if len(args) > 2 else []
            touched = {dim % labels.dim() for dim in dims} or set(range(labels.dim()))
        else:
            touched = {(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % labels.dim()}
        if (output.shape != labels.shape or name == "roll") and touched & set(varying(labels)):
            self.atoms.freeze(labels, f"{self.where}: {name} picks channels by fixed position")
        self.set_labels(output, operator(labels, *args[1:], **kwargs))

    def _pad(self, args: tuple[Any, ...], output: Tensor) -> None:
        labels, padding = self.labels(args[0]), args[1]
        small = compact(labels)
        for place in range(len(padding) // 2):
            dim = labels.dim() - 1 - place
            before, after = padding[2 * place], padding[2 * place + 1]
            if (before or after) and small.shape[dim] > 1:
                small = torch.constant_pad_nd(small.transpose(dim, -1), [max(before, 0), max(after, 0)], 0).transpose(dim, -1)
        if any(size not in (1, full) for size, full in zip(small.shape, output.shape, strict=True)):
            self.atoms.freeze(labels, f"{self.where}: channels cropped at fixed positions")
            return
        self.set_labels(output, small.expand(output.shape))

    def _pointwise(self, name: str, tensors: list[Tensor], output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        shape = first.shape
        joined: Tensor | None = None
        sources: list[tuple[Tensor, torch.Size]] = []
        for tensor in tensors:
            if tensor.dim() > len(shape):
                continue
            labels = self._label_of(tensor)
            if id(tensor) in self.names and not bool(labels.any()):
                labels = self._adopt(tensor, tensors, shape)
            sources.append((compact(labels), tensor.shape))
        for labels, _ in sources:
            if bool(labels.any()):
                if joined is None:
                    joined = labels
                else:
                    both = torch.broadcast_tensors(joined, labels)  # type: ignore[no-untyped-call]
                    self.atoms.unite(*both)
                    joined = torch.maximum(*both)
        if joined is None:
            return
        joined = joined.reshape((1,) * (len(shape) - joined.dim()) + tuple(joined.shape))
        wide = [dim for dim, size in enumerate(joined.shape) if size > 1]
        for labels, size in sources:
            full = (1,) * (len(shape) - len(size)) + tuple(size)
            spread = labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape)).expand(joined.shape)
            if any(full[dim] > 1 for dim in wide):
                self.atoms.freeze(joined[spread == 0], f"{self.where}: {name} with values of no channel and a fixed size")
        self.set_labels(first, self._rectangular(joined.expand(shape)))

    def _adopt(self, tensor: Tensor, tensors: list[Tensor], shape: torch.Size) -> Tensor:
        """Let a stored tensor with several wide dimensions (a position embedding) follow the activations it is joined to."""
        for other in tensors:
            if other is not tensor and other in self._labels:
                labels = self.labels(other)
                small = compact(labels)
                wide = [dim - small.dim() for dim, size in enumerate(small.shape) if size > 1]
                if len(wide) == 1 and tensor.dim() >= -wide[0] and tensor.shape[wide[0]] == small.shape[wide[0]]:
                    atoms = small.reshape(-1)
                    self.tie(tensor, tensor.dim() + wide[0], atoms)
                    return along(atoms, tensor.dim() + wide[0], tensor.shape)
        return self.labels(tensor)

    def _reduce(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        labels = self.labels(args[0])
        position = 2 if name in ("norm", "linalg_vector_norm") else 1
        dims = kwargs.get("dim", args[position] if len(args) > position else None)
        listed = range(labels.dim()) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        reduced = {dim % labels.dim() for dim in listed} if labels.dim() else set()
        if reduced & set(varying(labels)):
            self.atoms.freeze(labels, f"{self.where}: {name} over the channels")
            return
        for dim in sorted(reduced, reverse=True):
            labels = labels.narrow(dim, 0, 1) if first.dim() == args[0].dim() else labels.select(dim, 0)
        self.set_labels(first, labels)

    def _window(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        labels = self.labels(args[0])
        spatial = next((int(digit) for digit in name if digit.isdigit()), 2)
        small = compact(labels)
        if any(size > 1 for size in small.shape[-spatial:]):
            self.atoms.freeze(labels, f"{self.where}: {name} over the channels")
            return
        self.set_labels(first, small.expand(first.shape))


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below the layers."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._tracer.suspended:
            self._tracer.propagate(func, args, kwargs or {}, output)
        return output


class _Functions(TorchFunctionMode):
    """Sees the functions that take weights, whole."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = LAYER_RULES.get(func)
        if rule is None and func not in OPAQUE_FUNCTIONS:
            return func(*args, **kwargs)
        tracer = self._tracer
        tracer.suspended = True
        try:
            output = func(*args, **kwargs)
            if rule is not None:
                rule(tracer, output, *args, **kwargs)
            else:
                tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
                tracer.opaque(func.__name__, tensors)
        finally:
            tracer.suspended = False
        return output
