"""Memory of activations: the storages that a forward pass makes, with the operators at which each begins and ends to live."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, UntypedStorage, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from spaces.execution.operator_mode import OperatorMode, Unfused


@dataclass
class Activation:
    """A storage of activations.

    Attributes:
        bytes: Its size.
        born: Number of the operator that made it, or read it first.
        made: Whether an operator made it.
        died: Number of the last operator before it was freed; None while it lives.
        labels: Labels of a tensor that fills it; None where none does, or it has no channels.
        beside: Atoms of the units that the tensor has beside its channels, of shape ``(size,)``; None where it has none.
    """

    bytes: int
    born: int
    made: bool
    died: int | None = None
    labels: Tensor | None = None
    beside: Tensor | None = None


class ActivationMemory:
    """The storages that operators read and write in one forward pass, those of parameters and buffers left out.

    Args:
        stored: Parameters and buffers.

    Attributes:
        activations: The storages, in the order in which they were met.
    """

    def __init__(self, stored: Iterable[Tensor]) -> None:
        self.activations: list[Activation] = []
        self._now = 0
        self._paused = False
        self._known: Any = WeakIdKeyDictionary()
        for tensor in stored:
            if (storage := _storage(tensor)) is not None:
                self._known[storage] = None

    def operator(self, args: Any, output: Any) -> None:
        """Note one call of an operator, with all its arguments."""
        if self._paused:
            return
        self._now += 1
        for made, value in ((False, args), (True, output)):
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and (storage := _storage(leaf)) is not None and storage not in self._known:
                    one = Activation(storage.nbytes(), self._now, made)
                    self._known[storage] = one
                    self.activations.append(one)
                    weakref.finalize(storage, self._freed, one).atexit = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Overlook operators, which are not the network's, while the context lasts."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def label(self, tensor: Tensor, labels: Tensor) -> None:
        """Note the labels of a tensor, if it fills its storage."""
        storage = _storage(tensor)
        one = None if storage is None else self._known.get(storage)
        if one is not None and one.labels is None and tensor.numel() * tensor.element_size() == one.bytes:
            one.labels = labels

    def label_beside(self, tensor: Tensor, atoms: Tensor) -> None:
        """Note the units that a tensor has beside its channels, if it fills its storage."""
        one = self._of(tensor)
        if one is not None and tensor.numel() * tensor.element_size() == one.bytes:
            one.beside = atoms

    def alike(self, since: int, tensors: Iterable[Any]) -> None:
        """Give storages without labels, from number ``since`` on, the labels of the one of ``tensors`` with as many elements.

        They are what an operator or a layer made on the way to its result; one that is in the result itself must have the
        shape of the other.
        """
        owned = [(one, tensor.shape) for tensor in tensors if isinstance(tensor, Tensor) and (one := self._of(tensor))]
        known = [one.labels for one, _ in owned if one.labels is not None]
        shapes = {id(one): shape for one, shape in owned}
        for one in self.activations[since:]:
            if one.made and one.labels is None:
                fitting = (labels for labels in known if shapes.get(id(one), labels.shape) == labels.shape)
                one.labels = next((labels for labels in fitting if one.bytes in _sizes(labels)), None)

    def sized(self, since: int, labels: Mapping[int, Tensor]) -> None:
        """Give storages without labels, from number ``since`` on, the labels of their size in bytes, one for each channel."""
        for one in self.activations[since:]:
            if one.made and one.labels is None:
                one.labels = labels.get(one.bytes)

    def _of(self, tensor: Tensor) -> Activation | None:
        storage = _storage(tensor)
        return None if storage is None else self._known.get(storage)

    def _freed(self, one: Activation) -> None:
        one.died = self._now


def _sizes(labels: Tensor) -> tuple[int, ...]:
    """Return the bytes of a tensor with as many elements as ``labels``, in types of 1 to 8 bytes."""
    return tuple(labels.numel() * width for width in (1, 2, 4, 8))


def _storage(tensor: Tensor) -> UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


class Timeline:
    """The changes of live memory in order: every storage comes once, and goes once.

    Args:
        lives: By storage, the first and the last operator of its life (None: to the end).

    Attributes:
        which: By change, the number of its storage; int64 of shape ``(2 * storages,)``.
        signs: By change, 1 where the storage comes and -1 where it goes.
    """

    def __init__(self, lives: Sequence[tuple[int, int | None]]) -> None:
        born = np.asarray([first for first, _ in lives], dtype=np.float64)
        gone = np.asarray([np.inf if last is None else last + 1 for _, last in lives])
        # What is freed between two operators goes before the second one makes anything.
        order = np.lexsort((np.repeat([1, 0], len(lives)), np.concatenate([born, gone])))
        self.which = order % max(1, len(lives))
        self.signs = np.where(order < len(lives), 1.0, -1.0)

    def peak(self, sizes: np.ndarray) -> float:
        """Return the largest sum of ``sizes``, one by storage, over those alive at one time."""
        return float(np.cumsum(sizes[self.which] * self.signs).max(initial=0.0))


class _Watch(OperatorMode):
    """Notes every operator."""

    def __init__(self, memory: ActivationMemory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = memory

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        self._memory.operator((args, kwargs), output)
        return output


def state_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers."""
    yield from model.parameters()
    yield from model.buffers()


@contextmanager
def watched_memory(model: nn.Module) -> Iterator[ActivationMemory]:
    """Watch the activations of the forward pass of ``model`` that is run while the context lasts."""
    memory = ActivationMemory(state_of(model))
    with _Watch(memory), Unfused():
        yield memory


def peak_bytes(activations: Sequence[Activation]) -> float:
    """Return the largest number of bytes that live together."""
    timeline = Timeline([(one.born, one.died) for one in activations])
    return timeline.peak(np.asarray([one.bytes for one in activations], dtype=np.float64))
