"""The pipeline: stages in order, and the checks before them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.pipeline.pipeline import run as run


def __getattr__(name: str) -> Any:
    """Import :func:`run` when it is asked for, so that a configuration is checked without torch (PEP 562)."""
    if name == "run":
        from search.pipeline.pipeline import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
