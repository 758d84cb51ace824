"""Configuration of a run: one YAML file, with every mistake shown at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.config.loading import load as load


def __getattr__(name: str) -> Any:
    """Import :func:`load` when it is asked for, so that the command line answers --help without pydantic (PEP 562)."""
    if name == "load":
        from search.config.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
