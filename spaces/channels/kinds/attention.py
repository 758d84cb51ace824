"""Multi-head attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from spaces.channels.label_tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind


class Attention(LayerKind):
    """Multi-head attention: counted, while its channels and heads stay as they are."""

    name = "attention"
    modules = (nn.MultiheadAttention,)
    functions = (F.multi_head_attention_forward,)
    unquantizable = "the projections of attention are computed in one function"

    def trace(self, tracker: LabelTracker, output: Any, *args: Any, **kwargs: Any) -> None:
        """Freeze the channels that attention reads."""
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        tracker.opaque(F.multi_head_attention_forward.__name__, tensors)

    def macs(self, module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], outputs: Any) -> int:
        """Return the multiply-accumulates of the four projections and of both products of the heads."""
        assert isinstance(module, nn.MultiheadAttention)  # noqa: S101 (for the type checker)
        query, key, value = (*inputs, *(keywords[n] for n in ("query", "key", "value") if n in keywords))[:3]
        width = module.embed_dim
        axis = 0 if query.ndim == 2 or not module.batch_first else 1
        targets, sources = query.shape[axis], key.shape[axis]
        batch = query.numel() // (targets * query.shape[-1])
        projections = targets * width * width * 2 + sources * width * (key.shape[-1] + value.shape[-1])
        return int(batch * (projections + 2 * targets * sources * width))
