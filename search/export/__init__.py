"""Export: networks read back without pickle, tracing or data, and written in formats of other programs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.export.saved_network import load as load


def __getattr__(name: str) -> Any:
    """Import :func:`load` when it is asked for, so that settings are read without torch (PEP 562)."""
    if name == "load":
        from search.export.saved_network import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
