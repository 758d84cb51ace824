"""Attention of PyTorch in a form that can be cut: its projections apart, its inner width free of the width of its inputs.

``nn.MultiheadAttention`` and the layers around it run as one operator in evaluation mode, and take the width of the heads from
that of the inputs. The classes here are theirs with other code: parameters, names and answers stay.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.cloning.clone import clone

Network = TypeVar("Network", bound=nn.Module)


class SplitAttention(nn.MultiheadAttention):
    """Multi-head attention whose heads may be fewer than the width of its inputs has room for.

    Number and width of the heads are told by ``num_heads`` and ``head_dim``; ``embed_dim``, ``kdim`` and ``vdim`` are
    the widths of queries, keys and values. Arguments and results are those of ``nn.MultiheadAttention``.
    """

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False, which keeps ``nn.TransformerEncoderLayer`` from handing the weights to its own operator."""
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs, and the weights of attention where they are needed."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal: expected attn_mask beside the hint; nn.Transformer.generate_square_subsequent_mask")
        alone = query.dim() == 2
        queries, keys, values = self._projected(query, key, value, alone)
        given = keys.shape[1]
        q, k, v = (self._split(part) for part in (queries, self._more(keys, self.bias_k), self._more(values, self.bias_v)))
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else _added(attn_mask, key_padding_mask, q, k.shape[-2] - given)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            if dropout:
                weights = F.dropout(weights, dropout)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if alone:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor, alone: bool) -> list[Tensor]:
        """Return queries, keys and values of all heads, each of shape ``(N, length, heads * width)``."""
        whole = self.in_proj_weight
        if whole is not None and query is key and key is value:
            return [*F.linear(self._batch(query, alone, self.embed_dim), whole, self.in_proj_bias).chunk(3, -1)]
        if whole is None:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        else:
            parts = whole.reshape(3, -1, whole.shape[1])
            weights = [parts[0], parts[1], parts[2]]
        biases = [None] * 3 if self.in_proj_bias is None else [*self.in_proj_bias.reshape(3, -1).unbind(0)]
        given = ((query, self.embed_dim), (key, self.kdim), (value, self.vdim))
        return [
            F.linear(self._batch(one, alone, width), weight, bias)
            for (one, width), weight, bias in zip(given, weights, biases, strict=True)
        ]

    def _batch(self, given: Tensor, alone: bool, width: int) -> Tensor:
        """Return an input of a width as ``(N, length, width)``."""
        if alone:
            given = given.unsqueeze(0)
        elif not self.batch_first:
            given = given.transpose(0, 1)
        return given.reshape(*given.shape[:-1], width)

    def _more(self, part: Tensor, learned: Tensor | None) -> Tensor:
        """Return keys or values with the learned one and the zero behind them that every query may attend to."""
        if learned is not None:
            part = torch.cat([part, learned.expand(part.shape[0], -1, -1)], 1)
        return torch.cat([part, torch.zeros_like(part[:, :1])], 1) if self.add_zero_attn else part

    def _split(self, part: Tensor) -> Tensor:
        """Return ``(N, heads, length, width)``."""
        return part.reshape(*part.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)


class SplitEncoder(nn.TransformerEncoder):
    """A stack of encoder layers that asks nothing of its first one, which may have been cut or removed.

    Padding becomes zero in evaluation mode, as where ``nn.TransformerEncoder`` leaves it out of nested tensors, which it does
    without gradients and not in exported programs: all of it at the ends, or ``mask_check`` off.
    """

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Return the outputs of the last layer, normalized if there is a norm."""
        output = src
        for layer in self.layers:
            output = layer(
                output, src_mask=mask, is_causal=bool(is_causal) and mask is not None, src_key_padding_mask=src_key_padding_mask
            )
        if (
            mask is None
            and src_key_padding_mask is not None
            and src.dim() == 3
            and self.use_nested_tensor
            and not self.training
        ):
            padding = src_key_padding_mask if src_key_padding_mask.dtype == torch.bool else src_key_padding_mask != 0
            if self.mask_check:
                padding = padding & (padding[:, 1:] >= padding[:, :-1]).all()
            output = output.masked_fill(padding.unsqueeze(-1), 0.0)
        return output if self.norm is None else self.norm(output)


class SplitTransformer(nn.Transformer):
    """Encoder and decoder whose width is that of their layers, which may have been cut."""

    @property
    def d_model(self) -> int:  # type: ignore[override]
        """Width of the encoder's inputs."""
        [first, *_] = (part for part in self.encoder.modules() if isinstance(part, nn.MultiheadAttention))
        width: int = first.embed_dim
        return width


_Forms = dict[type[nn.Module], type[nn.Module]]

_ENCODERS: _Forms = {nn.TransformerEncoder: SplitEncoder}
_FORMS: _Forms = {nn.MultiheadAttention: SplitAttention, nn.Transformer: SplitTransformer, **_ENCODERS}


def split_attention(model: Network) -> Network:
    """Return ``model``, a network of the caller's own, with its attention of PyTorch in the form that can be cut."""
    return _formed(model, _FORMS)


def split_encoders(model: Network) -> Network:
    """Return ``model``, a network of the caller's own, with encoders whose layers may lose parts; attention stays as it is."""
    return _formed(model, _ENCODERS)


def split_form(model: Network) -> Network:
    """Return a copy of ``model`` with :func:`split_attention`; ``model`` itself where that has nothing to change."""
    return split_attention(clone(model)) if any(type(module) in _FORMS for module in model.modules()) else model


def of_torch(module: nn.Module) -> bool:
    """Return True for a module of PyTorch's own, in its form or in the one that can be cut."""
    return type(module).__module__.startswith("torch.") or type(module) in _FORMS.values()


def _formed(model: Network, forms: _Forms) -> Network:
    for module in model.modules():
        form = forms.get(type(module))
        if form is not None and (form is not SplitTransformer or _is_own(module)):
            module.__class__ = form
    return model


def _is_own(module: nn.Module) -> bool:
    """Return True for a transformer whose encoder is PyTorch's."""
    return any(isinstance(part, nn.MultiheadAttention) for part in module.get_submodule("encoder").modules())


def _added(attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor, more: int) -> Tensor | None:
    """Return what both masks add to the scores, to be broadcast to ``(N, heads, length, keys)``; None for nothing.

    Args:
        attn_mask: Mask of shape ``(length, keys)`` or ``(N * heads, length, keys)``.
        key_padding_mask: Mask of shape ``(N, keys)``, or ``(keys,)`` of a single sample.
        query: The queries, of shape ``(N, heads, length, width)``.
        more: Number of keys behind those that masks speak of, which every query may attend to.
    """
    added = []
    if attn_mask is not None:
        shape = (1, 1) if attn_mask.dim() == 2 else (query.shape[0], query.shape[1])
        added.append(_numbers(attn_mask, query).reshape(*shape, *attn_mask.shape[-2:]))
    if key_padding_mask is not None:
        added.append(_numbers(key_padding_mask, query).reshape(query.shape[0], 1, 1, -1))
    if not added:
        return None
    mask = sum(added[1:], added[0])
    return F.pad(mask, (0, more)) if more else mask


def _numbers(mask: Tensor, query: Tensor) -> Tensor:
    """Return a mask as numbers: what a boolean one leaves out has minus infinity."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, float("-inf"))
