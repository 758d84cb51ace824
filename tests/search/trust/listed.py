"""Networks whose factory is on the closed lists, and the watch that nothing is fetched for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from evaluators.tasks.model_factory import ModelSettings, build_model
from search.trust.canonical import canonical_origin
from tests.search.small_space import PointTask


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turn every connection into a failure of the test."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a connection was asked for")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return


class Built(PointTask):
    """A task whose network comes from a factory in a configuration."""

    def __init__(self, factory: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.origin = {"model": {"factory": factory, "arguments": arguments, "checkpoint": None, "init_seed": 0}}
        self.network = build_model(ModelSettings(factory, arguments))

    def build(self) -> nn.Module:
        return self.network

    def stored(self) -> tuple[str, dict[str, Any]]:
        """Return factory and arguments as architecture.json has them."""
        model = canonical_origin(self.origin, self)["model"]
        return model["factory"], model["arguments"]


def origin(factory: str, **arguments: Any) -> dict[str, Any]:
    return {"model": {"factory": factory, "arguments": arguments}}
