"""Admission of networks: refusal, before anything is computed, of those that can't be taken apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from spaces.cloning.clone import Cloning, Held, copied, is_compiled, reaches
from spaces.errors import UnsupportedModelError

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def admitted(model: nn.Module) -> nn.Module:
    """Return a clone of ``model`` to trace, change and run in its place, so that the network given is never changed.

    Raises:
        UnsupportedModelError: The network has a part that can't be cloned or cut, or that no state dict holds; the message
            names the attribute, the module and the remedy.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"expected a torch.nn.Module, got a {type(model).__name__}: {_remedy_for(model)}")
    for name, module in model.named_modules():
        if reason := _reason(module):
            raise UnsupportedModelError(f"{_described(name, module)} {reason}")
    cloning = Cloning(lambda name, tensor: copied(name, tensor).as_subclass(Tensor))
    own = cloning.clone(model)
    modules = dict(model.named_modules())
    for held in cloning.strays:
        raise UnsupportedModelError(_told(held, modules, "is none of its registered parts") + _stray(held.value))
    parts = {id(module) for module in modules.values()} | {id(tensor) for tensor in _state(model)}
    for held in cloning.shared:
        if reaches(held.value, parts):
            raise UnsupportedModelError(
                _told(held, modules, "holds parts of the network and can't be copied")
                + "the smaller network would run the original's; make it a method of the class, or a module"
            )
    return own


def _state(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _reason(module: nn.Module) -> str:
    """Return why no network with this module can be taken apart, and what to do; empty if it can."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled by TorchScript, which has neither Python code nor layers left: give the network before torch.jit"
    if is_compiled(module):
        return "is compiled by torch.compile: give the network inside, its _orig_mod, and compile the result"
    if isinstance(module, nn.parallel.DistributedDataParallel) or any(c.__name__ in _SHARDED for c in type(module).__mro__):
        return f"is wrapped in {kind} for training on several devices: give the network inside, its module"
    if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
        return "is wrapped in DataParallel over several devices: give the network inside, its module"
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, tensor in own:
        if is_lazy(tensor):
            return f"is lazy, its {name} has no shape yet: run one batch through the network first"
        if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return (
                f"has the {name} in a {type(tensor).__name__}, a tensor that answers operators itself and can't be sliced: "
                "give the network with plain tensors, as before it was quantized or distributed"
            )
    if isinstance(module, fx.GraphModule) and _is_exported(module):
        return "is an exported program, which has operators in place of layers: give the network before torch.export"
    return ""


def _is_exported(module: fx.GraphModule) -> bool:
    """Return True for a graph that hands weights to operators of ATen itself, with no layer that owns them."""
    return any(
        isinstance(node.target, torch._ops.OpOverload) and any(arg.op == "get_attr" for arg in node.all_input_nodes)
        for node in module.graph.nodes
        if node.op == "call_function"
    )


def _remedy_for(model: object) -> str:
    if isinstance(model, torch.export.ExportedProgram):
        return "give the network before torch.export"
    return "give the network itself"


def _described(name: str, module: nn.Module) -> str:
    return f"the module {name} (a {type(module).__name__})" if name else f"the network (a {type(module).__name__})"


def _told(held: Held, modules: dict[str, nn.Module], what: str) -> str:
    owner = modules.get(held.owner)
    place = held.owner or "the network" if owner is None else _described(held.owner, owner)
    return f"the attribute {held.attribute} of {place} holds a {type(held.value).__name__} that {what}: "


def _stray(value: object) -> str:
    if isinstance(value, nn.Module):
        return (
            "its weights are neither trained nor saved with the network; register it, in an attribute of its own, "
            "nn.ModuleList or nn.ModuleDict in place of a plain list, dict or function"
        )
    return (
        "it is neither trained nor saved with the network; register it as nn.Parameter in an attribute of its own or in "
        "nn.ParameterList, or as a buffer"
    )
