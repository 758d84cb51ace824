"""Hooks for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle


def first_tensor(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
    """Return the first tensor that a module was called with, by position or else by keyword; None if there is none."""
    return next((value for value in (*args, *keywords.values()) if isinstance(value, Tensor)), None)


def with_first(
    args: tuple[Any, ...], keywords: Mapping[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a module's call with a change of the :func:`first_tensor`."""
    first = first_tensor(args, keywords)
    if first is None:
        return args, dict(keywords)
    changed = change(first)
    return (
        tuple(changed if value is first else value for value in args),
        {name: changed if value is first else value for name, value in keywords.items()},
    )


@contextmanager
def temporary_hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hold hooks for the length of the context, and remove them whatever happens.

    Args:
        handles: What ``register_forward_hook`` and its like return; a generator registers them on entering.
    """
    registered: list[RemovableHandle] = []
    try:
        registered.extend(handles)
        yield
    finally:
        for handle in registered:
            handle.remove()
