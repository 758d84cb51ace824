"""The layer in whose forward pass an error arose, read off the error's traceback."""

from __future__ import annotations

from torch import nn

from spaces.execution.code_places import walked


def failed_layer(error: BaseException) -> str | None:
    """Return the layer in whose forward pass an error arose: ``features.3 (Conv2d)``; None for an error outside of a network.

    Nothing is asked of a network that works: the modules are those in the frames of the traceback, of the error or of the one
    that it was raised from.
    """
    found: BaseException | None = error
    modules: list[nn.Module] = []
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        running = [frame.f_locals.get("self") for frame, _ in walked(found.__traceback__)]
        modules = [one for one in running if isinstance(one, nn.Module)] or modules
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    if not modules:
        return None
    names = {id(module): name for name, module in modules[0].named_modules()}
    inner = next(module for module in reversed(modules) if id(module) in names)
    kind = type(inner).__name__
    return f"{names[id(inner)]} ({kind})" if names[id(inner)] else kind
