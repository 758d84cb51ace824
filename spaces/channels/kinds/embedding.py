"""Embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.kinds.tracing import label_output, output_atoms
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind


class Embedding(LayerKind):
    """A table of rows that whole numbers pick: its columns are channels, its rows stay."""

    name = "embedding"
    modules = (nn.Embedding,)
    functions = (F.embedding,)
    output_dim = 1
    unquantizable = "its rows are picked, not multiplied"

    def trace(
        self,
        tracker: LabelTracker,
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Tie the columns of the table to channels; a table that is normalized in place, over its columns, stays."""
        if not tracker.stack or not isinstance(tracker.stack[-1][1], self.modules) or tracker.owner(weight) is None:
            return
        outputs = output_atoms(tracker, weight, 1, output.shape[-1])
        tracker.tie(weight, 0, torch.zeros(len(weight), dtype=torch.int64))
        tracker.tie(weight, 1, outputs)
        if max_norm is not None:
            tracker.freeze(outputs, "its rows are normalized over the channels (max_norm)")
        label_output(tracker, output, outputs, output.dim() - 1, "column")
        tracker.record(self, outputs[:0], outputs, 0.0, 1, -1)

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return ``embedding_dim``."""
        return {"embedding_dim": outputs}

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return the table, whose columns are channels."""
        return (("weight", 1),)

    def readers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return no tensor."""
        return ()

    def filters(self, module: nn.Module, outputs: int, groups: int) -> Tensor:
        """Return the columns of the table, of shape ``(outputs, rows)``."""
        return module.get_parameter("weight").T
