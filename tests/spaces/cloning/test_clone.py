"""Clones share nothing that runs or changes with their original, in whatever way its modules hold each other."""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from spaces.channel_mask import ChannelMask
from spaces.cloning.admission import admitted
from spaces.cloning.clone import clone
from spaces.errors import UnsupportedModelError

INPUTS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Three layers; subclasses run the second in a way of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, 5)

    def middle(self, x: Tensor) -> Tensor:
        return self.second(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(torch.relu(self.first(x)))).mean((2, 3)))


class Bound(Small):
    def __init__(self) -> None:
        super().__init__()
        self.forward = self.fast  # type: ignore[method-assign]

    def fast(self, x: Tensor) -> Tensor:
        return Small.forward(self, x)


class Pair(NamedTuple):
    one: Any
    other: Any


@dataclass
class Record:
    layer: Any


class Slotted:
    __slots__ = ("layer",)

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(x)


def counted_closure(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor, left: int = 1) -> Tensor:
        return layer(x) if left == 0 else run(x, left - 1)

    return run


def default_argument(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor, inner: nn.Module = layer, *, same: nn.Module = layer) -> Tensor:
        return (inner if inner is same else nn.Identity())(x)

    return run


WAYS: dict[str, Callable[[Small], Callable[[Tensor], Tensor]]] = {
    "lambda": lambda net: lambda x: net.second(x),
    "recursive closure": lambda net: counted_closure(net.second),
    "default argument": lambda net: default_argument(net.second),
    "partial": lambda net: functools.partial(net.second),
    "partial of a bound method": lambda net: functools.partial(net.middle),
    "bound call": lambda net: net.second.__call__,
    "plain list": lambda net: _keep(net, [net.second], lambda held, x: held[0](x)),
    "plain dict": lambda net: _keep(net, {"k": net.second}, lambda held, x: held["k"](x)),
    "ordered dict": lambda net: _keep(net, OrderedDict(k=net.second), lambda held, x: held["k"](x)),
    "default dict": lambda net: _keep(net, defaultdict(list, k=[net.second]), lambda held, x: held["k"][0](x)),
    "tuple": lambda net: _keep(net, (net.second,), lambda held, x: held[0](x)),
    "named tuple": lambda net: _keep(net, Pair(1, net.second), lambda held, x: held.other(x)),
    "set": lambda net: _keep(net, {net.second}, lambda held, x: next(iter(held))(x)),
    "dataclass": lambda net: _keep(net, Record(net.second), lambda held, x: held.layer(x)),
    "object with slots": lambda net: Slotted(net.second),
    "weak reference": lambda net: _keep(net, weakref.ref(net.second), lambda held, x: held()(x)),
    "method given later": lambda net: types.MethodType(lambda self, x: self.second(x), net),
}


def _keep(net: nn.Module, held: Any, run: Callable[[Any, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    net.held = held
    return types.MethodType(lambda self, x: run(self.held, x), net)


def held(way: str) -> Small:
    net = Small()
    net.middle = WAYS[way](net)  # type: ignore[method-assign]
    return net.eval()


def zero(net: nn.Module) -> None:
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()


def in_hook() -> Small:
    net = Small()
    net.head.register_forward_pre_hook(lambda module, args: (args[0] + net.second.bias,))
    return net.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{way: functools.partial(held, way) for way in WAYS},
    "bound forward": lambda: Bound().eval(),
    "hook": in_hook,
    "torch.fx graph": lambda: fx.symbolic_trace(Small()).eval(),
    "feature extractor": lambda: create_feature_extractor(Small(), ["head"]).eval(),
}


def answer(net: nn.Module) -> Tensor:
    outputs = net(INPUTS)
    return outputs["head"] if isinstance(outputs, dict) else outputs


@pytest.mark.parametrize("name", NETWORKS)
def test_a_clone_and_a_small_network_run_nothing_of_the_original(name: str) -> None:
    net = NETWORKS[name]()
    own = clone(net)
    space = ChannelMask(net, INPUTS)
    small = space.realize(net, space.cheapest())
    assert space.check(net, space.cheapest()) < 1e-8
    expected, reduced = answer(net), answer(small)
    zero(net)
    assert torch.equal(answer(own), expected)
    assert torch.equal(answer(small), reduced)
    assert [group.size for group in space.groups.groups] == [8, 12]


def test_a_clone_has_its_own_graph_class_and_follows_modes() -> None:
    net = create_feature_extractor(Small(), ["head"]).train()
    own = clone(net)
    own.eval()
    assert type(own) is not type(net)
    assert own.graph is not net.graph
    assert net.training


def test_a_clone_keeps_what_is_shared_within_the_network() -> None:
    net = Small()
    net.alias, net.tied = net.second, nn.Linear(12, 5)
    net.tied.weight = net.head.weight
    own = clone(net)
    assert own.alias is own.second
    assert own.tied.weight is own.head.weight is not net.head.weight


class Odd(Small):
    """Holds a lock, a generator, a counter and a tensor that is no leaf; draws, counts and appends when it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.seen, self.generator = threading.Lock(), [], torch.Generator().manual_seed(3)
        self.scaled = self.head.weight * 2
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        with self.lock:
            self.seen.append(torch.rand((), generator=self.generator))
        torch.rand(3)
        return super().forward(x)


def test_finding_groups_changes_nothing_of_a_network_that_cannot_be_deepcopied() -> None:
    net = Odd().train()
    net.first.eval()
    state, modes = net.generator.get_state(), [module.training for module in net.modules()]
    drawn = torch.get_rng_state()
    space = ChannelMask(net, INPUTS, batches=[INPUTS])
    assert not net.seen
    assert not net.calls
    assert torch.equal(net.generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [module.training for module in net.modules()] == modes
    assert space.check(net, space.cheapest()) < 1e-8


def unregistered() -> nn.Module:
    net = Small()
    net.extra = [nn.Conv2d(8, 8, 1)]
    return net


def loose_parameter() -> nn.Module:
    net = Small()
    net.gains = {"second": nn.Parameter(torch.ones(12))}
    return net


def cached() -> nn.Module:
    net = Small()
    net.middle = functools.lru_cache(net.second.forward)  # type: ignore[method-assign]
    return net


class Answering(Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


def answering() -> nn.Module:
    net = Small()
    net.second.register_parameter("bias", None)
    net.second.register_buffer("shift", torch.zeros(12).as_subclass(Answering))
    return net


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "unregistered module": (unregistered, r"attribute extra of the network \(a Small\) holds a Conv2d.*nn\.ModuleList"),
    "loose parameter": (loose_parameter, r"attribute gains .* holds a Parameter .*nn\.Parameter"),
    "cache of a method": (cached, r"attribute middle .* holds a _lru_cache_wrapper .*method of the class"),
    "lazy layer": (lambda: nn.Sequential(nn.LazyConv2d(8, 3)), r"module 0 \(a LazyConv2d\) is lazy, .*run one batch"),
    "compiled": (lambda: torch.compile(Small(), backend="eager"), "is compiled by torch.compile: give the network inside"),
    "scripted part": (
        lambda: nn.Sequential(torch.jit.trace(nn.ReLU(), INPUTS)),
        r"module 0 \(a \w+\) is compiled by TorchScript.*before torch.jit",
    ),
    "tensor that answers": (answering, r"module second \(a Conv2d\) has the shift in a Answering.*plain tensors"),
    "exported": (lambda: torch.export.export(Small().eval(), (INPUTS,)).module(), "exported program.*before torch.export"),
    "exported program": (lambda: torch.export.export(Small().eval(), (INPUTS,)), "got a ExportedProgram.*before torch.export"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_apart_is_refused_by_name(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=words):
        admitted(make())


def test_a_network_compiled_in_place_is_cloned_as_it_was() -> None:
    net = Small().eval()
    net.compile(backend="eager")
    space = ChannelMask(net, INPUTS)
    small = space.realize(net, space.cheapest())
    assert small._compiled_call_impl is None
    assert net._compiled_call_impl is not None
    assert small(INPUTS).shape == (1, 5)
