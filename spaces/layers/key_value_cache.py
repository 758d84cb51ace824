"""Key-value cache of a network over tokens: the tensors that it keeps of every token it has read, known by their interface.

A network has a cache if its modules give or take an object named ``past_key_values``, as transformers' do; its size is that of
all tensors in the object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.execution.batch import Nested, at_length, select
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, call, tensors_in
from spaces.execution.hooks import temporary_hooks
from spaces.execution.randomness import kept_randomness

CACHE = "past_key_values"
ASKED = "use_cache"
DECODED = ("decoder_input_ids", "decoder_inputs_embeds")
"""Keywords with the tokens that a decoder reads, where an encoder reads others."""


def cache_bytes_per_token(model: nn.Module, inputs: Nested, forward: Forward = call) -> float | None:
    """Return the bytes by which the cache of one sample grows with a token, of a decoder with one that it decodes.

    The cache of two tokens is compared with that of one, so that no sliding window is full.

    Args:
        model: The network; left unchanged, and run in evaluation mode.
        inputs: A batch whose first tensor is of shape ``(N, tokens, ...)``; the first sample is run. An encoder's inputs may
            have any shape, where the decoder gets its tokens by keyword.
        forward: How ``model`` is run on them.

    Returns:
        Bytes per token; None for a network without a cache that grows.
    """
    if not any(_keeps(module) for module in model.modules()):
        return None
    inputs = select(inputs, 0, 1)
    watches = _Watch(1), _Watch(2)
    one = watches[0].run(model, inputs, forward)
    if watches[0].decodes:
        two = watches[1].run(model, inputs, forward)
    else:
        one, two = (watch.run(model, at_length(inputs, watch.tokens), forward) for watch in watches)
    grown = two - one
    return float(grown) if grown > 0 else None


class _Watch:
    """Asks a network for its cache, and keeps the one that its modules gave or took last.

    Args:
        tokens: Tokens that a decoder which reads others than the encoder is left with.

    Attributes:
        decodes: Whether there was such a decoder.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.decodes = False
        self._cache: Any = None
        self._depth = 0

    def run(self, model: nn.Module, inputs: Nested, forward: Forward) -> int:
        """Return the bytes of the cache after one pass; 0 where there is none, or the network does not run so."""
        self._cache, self._depth = None, 0
        with temporary_hooks(self._hooks(model)), evaluation_mode(model), torch.no_grad(), kept_randomness():
            try:
                forward(model, inputs)
            except (RuntimeError, TypeError, ValueError, IndexError):
                return 0
            return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(self._cache))

    def _hooks(self, model: nn.Module) -> Iterator[RemovableHandle]:
        for module in model.modules():
            asks = ASKED in _parameters(module)
            yield module.register_forward_pre_hook(self._enter(_keeps(module), asks), with_kwargs=True)
            yield module.register_forward_hook(self._leave(_keeps(module)), with_kwargs=True)

    def _enter(self, keeps: bool, asks: bool) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            self._see(keywords)
            outermost = keeps and not self._depth
            self._depth += keeps
            if not outermost:
                return None
            changed = {**keywords, ASKED: True} if asks else dict(keywords)
            for name in DECODED:
                if isinstance(changed.get(name), Tensor):
                    self.decodes = True
                    changed[name] = at_length(changed[name], self.tokens)
            return args, changed

        return hook

    def _leave(self, keeps: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            self._depth -= keeps
            self._see(output if isinstance(output, Mapping) else {CACHE: getattr(output, CACHE, None)})

        return hook

    def _see(self, named: Mapping[str, Any]) -> None:
        found = named.get(CACHE)
        self._cache = self._cache if found is None else found


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return {}


def _keeps(module: nn.Module) -> bool:
    return not {CACHE, ASKED}.isdisjoint(_parameters(module))
