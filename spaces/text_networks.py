"""Transformers for text: blocks of self-attention and an MLP, for the next token or for whole texts.

Plain modules: attention and MLP are separate layers, so that the hidden width of every MLP is a channel group of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.errors import SecateursError


class TextNetworkError(SecateursError):
    """A text network can't be made of the sizes given."""


class SelfAttention(nn.Module):
    """Attention with several heads of every token to those of the same text (Vaswani et al. 2017, arXiv 1706.03762).

    Shapes: ``(N, length, width)`` in and out.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        """Make the projections; with ``causal``, a token sees itself and those before it only."""
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attended tokens; ``mask``, boolean of shape ``(N, length)``, is False for tokens that none sees."""
        query, key, value = (self._split(part(tokens)) for part in (self.query, self.key, self.value))
        seen = None if mask is None else mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=self.causal)
        outputs: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return outputs

    def _split(self, values: Tensor) -> Tensor:
        """Return ``(N, length, width)`` as ``(N, heads, length, width / heads)``."""
        return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)


class TextBlock(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and added to what entered (pre-norm; Xiong et al. 2020, arXiv 2002.04745).

    Shapes: ``(N, length, width)`` in and out.
    """

    def __init__(self, width: int, heads: int, hidden: int, causal: bool, dropout: float) -> None:
        """Make the layers; the MLP has ``hidden`` channels inside."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the tokens behind the block."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens), mask))
        outputs: Tensor = tokens + self.dropout(self.down(self.activation(self.up(self.norm2(tokens)))))
        return outputs


class TextNetwork(nn.Module):
    """Embeddings of tokens and positions, blocks, a last LayerNorm and a linear head.

    Args:
        vocabulary: Number of different tokens.
        outputs: Outputs of the head.
        blocks: Number of blocks.
        width: Channels of a token.
        heads: Attention heads of a block.
        hidden: Channels inside an MLP; None for four times the width.
        length: Most tokens of a text.
        dropout: Probability of dropout behind attention and MLP.
        causal: Whether a token sees itself and those before it only.

    Raises:
        TextNetworkError: A size is below 1, or the width is no multiple of the heads.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        blocks: int,
        width: int,
        heads: int,
        hidden: int | None,
        length: int,
        dropout: float,
        causal: bool,
    ) -> None:
        """Make the layers, with the initial weights of GPT-2: N(0, 0.02), biases 0."""
        super().__init__()
        sizes = {
            "vocabulary": vocabulary,
            "outputs": outputs,
            "blocks": blocks,
            "width": width,
            "heads": heads,
            "length": length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise TextNetworkError(f"{name}: expected at least 1, got {size}")
        if width % heads:
            raise TextNetworkError(f"width: expected a multiple of the {heads} heads, got {width}")
        hidden = 4 * width if hidden is None else hidden
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TextBlock(width, heads, hidden, causal, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def tokens(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return tokens behind the last LayerNorm, shape ``(N, length, width)``, of ids, int64 of shape ``(N, length)``."""
        values = self.dropout(self.embedding(ids) + self.positions[: ids.shape[1]])
        for block in self.blocks:
            values = block(values, mask)
        outputs: Tensor = self.norm(values)
        return outputs


class TextGenerator(TextNetwork):
    """A GPT: logits of the next token at every place. ``(N, length)`` of int64 to ``(N, length, vocabulary)``."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of the token behind every one of ``ids``."""
        logits: Tensor = self.head(self.tokens(ids))
        return logits


class TextEncoder(TextNetwork):
    """A BERT: logits of a whole text, from the mean of its tokens. ``(N, length)`` of int64 to ``(N, outputs)``."""

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits of texts; ``mask``, of shape ``(N, length)``, is 0 or False for tokens that only fill up a row."""
        seen = None if mask is None else mask.bool()
        tokens = self.tokens(ids, seen)
        if seen is None:
            pooled = tokens.mean(1)
        else:
            weights = seen.to(tokens.dtype)[:, :, None]
            pooled = (tokens * weights).sum(1) / weights.sum(1).clamp_min(1.0)
        logits: Tensor = self.head(pooled)
        return logits
