"""Additions of two tensors: told among operators, with one term taken as zero, and watched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from spaces.execution.hooks import temporary_hooks
from spaces.execution.operator_mode import OperatorMode, Unfused


def is_addition(func: Any, args: tuple[Any, ...]) -> bool:
    """Return True for an operator that adds two tensors of floating-point numbers."""
    if func not in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) or len(args) < 2:
        return False
    return all(isinstance(one, Tensor) and one.is_floating_point() for one in args[:2])


Place = tuple[int, int]
"""Ordinal of an addition, and the place of one of its terms."""

Watch = Callable[[Tensor, Tensor], None]
"""Takes the value that a branch is added to, and the sum."""


class AdditionMode(OperatorMode):
    """Context in which some additions of a forward pass get zeros in the place of a term, or are watched.

    Args:
        zeroed: Ordinals of additions, each with the place of the term that is taken as zero, 0 or 1.
        watched: By ordinal and place of the other term, what takes the term to which that is added, and the sum.
    """

    def __init__(self, zeroed: Collection[Place] = (), watched: Mapping[Place, Watch] | None = None) -> None:
        """Begin to count additions."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._zeroed, self._watched = set(zeroed), watched or {}
        self._ordinal = 0

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator."""
        if not is_addition(func, args):
            return func(*args, **kwargs)
        ordinal, self._ordinal = self._ordinal, self._ordinal + 1
        watches = [
            (args[1 - place].clone(), self._watched[ordinal, place]) for place in (0, 1) if (ordinal, place) in self._watched
        ]
        if (ordinal, 1) in self._zeroed:
            args = (args[0], args[1] * 0.0, *args[2:])
        if (ordinal, 0) in self._zeroed:
            if func is torch.ops.aten.add_.Tensor:
                args[0].mul_(0.0)
            else:
                args = (args[0] * 0.0, *args[1:])
        output = func(*args, **kwargs)
        for before, watch in watches:
            watch(before, output)
        return output


@contextmanager
def branches_zeroed(model: nn.Module, zeroed: Collection[Place], skipped: Mapping[str, int | str]) -> Iterator[None]:
    """Run ``model`` with some branches times zero, and with some modules passed by.

    Args:
        model: The whole network, in evaluation mode; one run of it begins with the context.
        zeroed: As :class:`AdditionMode` has it.
        skipped: By module, the argument, a position or keyword, that the module returns in the place of its first tensor.
    """

    def skip(path: int | str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given = args[path] if isinstance(path, int) else kwargs[path]
            first = next(one for one in tree_leaves(output) if isinstance(one, Tensor))
            return tree_map(lambda one: given if one is first else one, output)

        return hook

    def handles() -> Iterator[RemovableHandle]:
        for name, path in skipped.items():
            yield model.get_submodule(name).register_forward_hook(skip(path), with_kwargs=True)

    with temporary_hooks(handles()), Unfused(), AdditionMode(zeroed):
        yield
