"""The error that tells how a network that is on no closed list can be loaded all the same."""

from __future__ import annotations

from evaluators.onnx_export import ExportError

FACTORY_REMEDY = "pass model_factory=..., a function that returns the original network"


class UntrustedError(ExportError):
    """A run folder names a factory that is not built without a word from the person who loads it.

    Args:
        name: Import path of the factory.
        reason: Why it is not built, in words.
        trust_helps: Whether it can be built once its code is trusted.
    """

    def __init__(self, name: str, reason: str, trust_helps: bool = True) -> None:
        package = package_of(name)
        trust = f"if you know and trust its code, pass trust=[{package!r}] (--trust {package}); or " if trust_helps else ""
        super().__init__(f"the network comes from {name}: {reason}; {trust}{FACTORY_REMEDY}")


def package_of(name: str) -> str:
    """Return the module that an import path leads into: what is to be trusted for it to be imported."""
    return name.partition(":")[0] if ":" in name else name.rpartition(".")[0] or name
