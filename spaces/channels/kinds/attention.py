"""Multi-head attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from spaces.channels.labels.tracker import LabelTracker
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
