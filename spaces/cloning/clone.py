"""Clones of networks: copies that run no module of the original, in whatever way its modules hold each other.

``copy.deepcopy`` leaves functions as they are, so that a lambda, a closure or a hook in the copy goes on running modules of the
original; and it fails for what can't be pickled. A clone has modules, tensors, containers, bound methods, closures, partial
functions, hooks and generators of its own; only what can't be copied and holds no part of the network is shared.
"""

from __future__ import annotations

import copy
import functools
import gc
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn

from spaces.cloning.attribute_places import set_at

Network = TypeVar("Network", bound=nn.Module)

State = Callable[[str, Tensor], Tensor]
"""From the state name of a parameter or buffer and the tensor to that of the clone, detached."""

_REGISTERED = ("_parameters", "_buffers", "_modules")
_BOOKKEEPING = {
    key: type(value) for key, value in vars(nn.Module()).items() if isinstance(value, dict | set) and key not in _REGISTERED
}
"""Every other container that a module owns (its hooks), with its type."""

_OWNED = frozenset((*_BOOKKEEPING, *_REGISTERED))

_ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type, type(...), range, slice, types.ModuleType, types.CodeType}
    | {torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format}
)
"""Types whose values hold nothing that can change."""

_COPYING = "__new__ __reduce__ __reduce_ex__ __deepcopy__ __getnewargs__ __getnewargs_ex__ __setstate__".split()
"""Methods by which a class decides how its objects are made and copied."""


@dataclass(frozen=True)
class Held:
    """A thing that a module holds in a plain attribute.

    Attributes:
        owner: Name of the module; empty for the network itself.
        attribute: Name of the attribute.
        value: The thing.
    """

    owner: str
    attribute: str
    value: Any


def clone(model: Network) -> Network:
    """Return a copy of ``model`` with tensors of its own, without gradients; ``model`` is left unchanged."""
    return cast(Network, Cloning().clone(model))


def copied(name: str, tensor: Tensor) -> Tensor:
    """Return a copy of a state tensor, detached where no gradients are recorded, as in a cloning."""
    return tensor.clone()


class Cloning:
    """The making of one clone.

    A network compiled by ``torch.compile`` or ``Module.compile`` is cloned as it was before.

    Args:
        state: Makes the tensors of the state dict; by default copies.
        attributes: By module name, attributes that the clone has instead of the original's.
        stubs: By module name, modules that the clone has instead of the original's; nothing of those is copied.

    Attributes:
        strays: Modules and parameters with weights that are held by plain attributes, and are not of the network's state.
        shared: Things that could not be copied, which clone and original share.
    """

    def __init__(
        self,
        state: State = copied,
        attributes: Mapping[str, Mapping[str, Any]] | None = None,
        stubs: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.strays: list[Held] = []
        self.shared: list[Held] = []
        self._state = state
        self._attributes = attributes or {}
        self._stubs = stubs or {}
        self._memo: dict[int, Any] = {}
        self._made: list[tuple[str, nn.Module, nn.Module, list[tuple[str, dict[Any, Any]]]]] = []
        self._place = ("", "")

    def clone(self, model: nn.Module) -> nn.Module:
        """Return the clone of ``model``."""
        with torch.no_grad():
            made = self._registered(model, "")
            # Strays are cloned on the way, and hold things themselves.
            for name, original, own, hooked in self._made:
                for key, hooks in hooked:
                    self._place = name, key
                    for place, hook in hooks.items():
                        hooks[place] = self._mapped(hook)
                self._take_along(name, original, own)
                if isinstance(own, nn.RNNBase):
                    # Its weights lie one behind the other where cuDNN reads them.
                    own.flatten_parameters()
        return made

    def _registered(self, module: nn.Module, prefix: str) -> nn.Module:
        """Return the clone of a module with its registered tensors and modules; other attributes follow later."""
        if id(module) in self._memo:
            found: nn.Module = self._memo[id(module)]
            return found
        if (stub := self._stubs.get(prefix[:-1])) is not None:
            self._memo[id(module)] = stub.train(module.training)
            return stub
        if is_compiled(module):
            inside = self._registered(module.get_submodule("_orig_mod"), prefix)
            self._memo[id(module)] = inside
            return inside
        own: nn.Module = object.__new__(_class_of(module))
        self._memo[id(module)] = own
        hooked: list[tuple[str, dict[Any, Any]]] = []
        self._made.append((prefix[:-1], module, own, hooked))
        state = own.__dict__
        state.update(module.__dict__)
        # Most are empty, and a network has a thousand of them: a new one is made faster than copied.
        for key, kind in _BOOKKEEPING.items():
            if old := state[key]:
                self._memo[id(old)] = state[key] = old.copy()
                if kind is not set:
                    hooked.append((key, state[key]))
            else:
                state[key] = kind()
        for key, trained in (("_parameters", True), ("_buffers", False)):
            if tensors := state[key]:
                state[key] = {
                    name: None if tensor is None else self._tensor(prefix + name, tensor, trained)
                    for name, tensor in tensors.items()
                }
            else:
                state[key] = {}
        state["_modules"] = {
            name: None if child is None else self._registered(child, f"{prefix}{name}.")
            for name, child in state["_modules"].items()
        }
        return own

    def _tensor(self, name: str, tensor: Tensor, trained: bool) -> Tensor:
        found: Tensor | None = self._memo.get(id(tensor))
        if found is not None:
            return found
        made = self._state(name, tensor)
        if trained:
            made = nn.Parameter(made, tensor.requires_grad)
        if tensor.__dict__:
            made.__dict__.update(tensor.__dict__)
        self._memo[id(tensor)] = made
        return made

    def _take_along(self, name: str, original: nn.Module, own: nn.Module) -> None:
        """Give the clone of a module its plain attributes."""
        state = own.__dict__
        replaced = self._attributes.get(name, {})
        for key, value in original.__dict__.items():
            if key in _OWNED or (kind := type(value)) in _ATOMS or key in replaced:
                continue
            if kind is tuple and _ATOMS.issuperset(map(type, value)):
                continue
            self._place = name, key
            state[key] = None if key == "_compiled_call_impl" else self._mapped(value)
        for place, number in replaced.items():
            set_at(state, place, number)
        if isinstance(own, fx.GraphModule):
            # Writes the class's forward function, which belongs to this clone alone.
            own.graph = own.graph

    def _mapped(self, value: Any) -> Any:
        """Return the clone's counterpart of what an attribute of the original holds."""
        kind = type(value)
        if kind in _ATOMS or isinstance(value, type):
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        made = self._counterpart(value)
        self._memo[id(value)] = made
        return made

    def _counterpart(self, value: Any) -> Any:
        kind = type(value)
        if kind in _CONTAINERS:
            return _CONTAINERS[kind](self, value)
        if isinstance(value, nn.Module):
            return self._stray_module(value)
        if isinstance(value, Tensor):
            if value.requires_grad and value.is_leaf:
                self.strays.append(Held(*self._place, value))
            made = value.detach().clone()
            return nn.Parameter(made, value.requires_grad) if isinstance(value, nn.Parameter) else made
        if isinstance(value, tuple) and any("_fields" in vars(one) for one in kind.__mro__):
            return kind(*map(self._mapped, value))
        if kind is types.MethodType:
            return types.MethodType(self._mapped(value.__func__), self._mapped(value.__self__))
        if kind is types.FunctionType:
            return self._function(value)
        if kind is types.BuiltinMethodType:
            owner = value.__self__
            return getattr(self._mapped(owner), value.__name__) if isinstance(owner, Tensor) else value
        if kind is functools.partial:
            keywords = {name: self._mapped(item) for name, item in value.keywords.items()}
            return functools.partial(self._mapped(value.func), *map(self._mapped, value.args), **keywords)
        if kind is weakref.ref:
            target = value()
            return weakref.ref(self._memo[id(target)]) if id(target) in self._memo else value
        if kind is torch.Generator:
            return torch.Generator(value.device).set_state(value.get_state())
        return self._object(value)

    def _stray_module(self, module: nn.Module) -> nn.Module:
        if any(True for _ in module.parameters()):
            self.strays.append(Held(*self._place, module))
        # No name of the state dict begins so: the tensors are copied whole.
        return Cloning._registered(self, module, "\0.")

    def _function(self, function: types.FunctionType) -> Any:
        """Return a function whose closure and defaults hold the clone's parts; the same one if they hold none."""
        compiled = function.__dict__.get("_torchdynamo_orig_callable")
        if compiled is not None:
            return self._mapped(compiled)
        cells, defaults, keywords = function.__closure__ or (), function.__defaults__, function.__kwdefaults__
        if not cells and not defaults and not keywords:
            return function
        own = tuple(types.CellType() for _ in cells)
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, own or None)
        made.__dict__.update(function.__dict__)
        made.__kwdefaults__ = keywords
        self._memo[id(function)] = made
        changed = False
        for old, new in zip(cells, own, strict=True):
            try:
                content = old.cell_contents
            except ValueError:
                continue
            new.cell_contents = self._mapped(content)
            changed |= new.cell_contents is not content
        if defaults:
            made.__defaults__ = tuple(map(self._mapped, defaults))
            changed |= any(one is not other for one, other in zip(defaults, made.__defaults__, strict=True))
        if keywords:
            made.__kwdefaults__ = {name: self._mapped(value) for name, value in keywords.items()}
            changed |= any(made.__kwdefaults__[name] is not value for name, value in keywords.items())
        return made if changed else function

    def _object(self, value: Any) -> Any:
        """Return a copy of an object of any other class; the object itself where it can't be copied."""
        kind = type(value)
        usual = all(getattr(kind, name, None) is getattr(object, name, None) for name in _COPYING)
        if usual and (kept := _attributes(value)) is not None:
            if not kept:
                return value
            made = object.__new__(kind)
            self._memo[id(value)] = made
            for name, item in kept.items():
                object.__setattr__(made, name, self._mapped(item))
            return made
        try:
            made = copy.deepcopy(value, self._memo)
        except Exception:
            made = value
        if made is value:
            self.shared.append(Held(*self._place, value))
        return made


def _list(cloning: Cloning, value: list[Any]) -> list[Any]:
    made = cloning._memo[id(value)] = value.copy()
    if not _ATOMS.issuperset(map(type, value)):
        made[:] = map(cloning._mapped, value)
    return made


def _tuple(cloning: Cloning, value: tuple[Any, ...]) -> tuple[Any, ...]:
    made = tuple(map(cloning._mapped, value))
    return value if all(one is other for one, other in zip(value, made, strict=True)) else made


def _dict(cloning: Cloning, value: dict[Any, Any]) -> dict[Any, Any]:
    made = defaultdict(value.default_factory) if isinstance(value, defaultdict) else type(value)()
    cloning._memo[id(value)] = made
    for key, item in value.items():
        made[cloning._mapped(key)] = cloning._mapped(item)
    return made


def _collection(cloning: Cloning, value: Any) -> Any:
    return type(value)(map(cloning._mapped, value))


_CONTAINERS: dict[type, Callable[[Cloning, Any], Any]] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    OrderedDict: _dict,
    defaultdict: _dict,
    set: _collection,
    frozenset: _collection,
    deque: lambda cloning, value: deque(map(cloning._mapped, value), value.maxlen),
}


def is_compiled(module: nn.Module) -> bool:
    """Return True for what ``torch.compile`` makes of a network."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def reaches(value: Any, parts: set[int]) -> bool:
    """Return True if ``value`` holds an object whose ``id`` is among ``parts``; classes and Python modules are passed over."""
    seen: set[int] = set()
    queue = [value]
    while queue:
        one = queue.pop()
        if id(one) in parts:
            return True
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FrameType):
            continue
        seen.add(id(one))
        queue.extend(
            [*(one.__closure__ or ()), one.__defaults__, one.__dict__]
            if isinstance(one, types.FunctionType)
            else gc.get_referents(one)
        )
    return False


def _class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module's clone: one of its own where a class belongs to a single module."""
    kind = type(module)
    if "parametrizations" in module._modules:
        # Removing a parametrization changes the class that PyTorch made for the layer.
        members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        changed: type[nn.Module] = type(kind.__name__, kind.__bases__, members)
        return changed
    if not isinstance(module, fx.GraphModule):
        return kind
    bases = kind.__bases__ if kind.__qualname__.rpartition(".")[2] == "GraphModuleImpl" else (kind,)
    own: type[nn.Module] = type("GraphModuleImpl", bases, {"__module__": kind.__module__})
    return own


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return the attributes of an object, those in slots included; None for one that can have none."""
    kind = type(value)
    if not kind.__dictoffset__ and not any("__slots__" in vars(one) for one in kind.__mro__[:-1]):
        return None
    found = dict(vars(value)) if kind.__dictoffset__ else {}
    for one in kind.__mro__:
        names = vars(one).get("__slots__", ())
        for name in [names] if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                with suppress(AttributeError):
                    found[name] = object.__getattribute__(value, name)
    return found
