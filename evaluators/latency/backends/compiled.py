"""Time networks compiled by ``torch.compile``, which merges layers."""

from __future__ import annotations

from typing import ClassVar

import torch

from evaluators.latency.backends.torch_program import Network, TorchBackend


class Compiled(TorchBackend):
    """PyTorch with ``torch.compile``."""

    label: ClassVar[str] = "PyTorch, compiled"

    def ready(self, network: Network) -> Network:
        """Return ``network`` compiled for its first inputs."""
        # Compiled code is cached per function, and after some shapes torch.compile gives up on it.
        torch._dynamo.reset()
        return torch.compile(network)
