"""Steps of a training that torch.compile has compiled, in a network that stays the same object with the same state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from evaluators.training.errors import TrainingError
from spaces.errors import error_line


class CompiledCalls:
    """Calls of a network that run compiled, inside :meth:`active` alone, so that measurements don't compile it once more.

    Args:
        model: The network, whose hooks and forward methods are those of the steps.
        device: Its device.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Compile nothing yet: that is done for the first batch."""
        # Compiled code is cached per function, and after some networks torch.compile gives up on it.
        torch._dynamo.reset()
        self._model = model
        self._device = device
        self._hooks = _hooks(model)
        self._compiled: Callable[..., Any] = torch.compile(model._call_impl)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the network run compiled inside the context, unless somebody has hooks on it that were not there before.

        Raises:
            TrainingError: It can't be compiled here.
        """
        if _hooks(self._model) != self._hooks:
            yield
            return
        self._model._compiled_call_impl = self._compiled
        try:
            with _here(self._device):
                yield
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = error_line(error).partition("\n")[0]
            raise TrainingError(
                f"compile: torch.compile can't compile {type(self._model).__name__} here ({reason}); install what it names, or "
                "set compile: false"
            ) from error
        finally:
            self._model._compiled_call_impl = None


def _here(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which code for CPUs is compiled in this process: torch's pool once never answered."""
    if device.type != "cpu":
        return nullcontext()
    # It takes seconds, which only those that compile should wait for.
    import torch._inductor.config

    patched: AbstractContextManager[object] = torch._inductor.config.patch(compile_threads=1)
    return patched


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
