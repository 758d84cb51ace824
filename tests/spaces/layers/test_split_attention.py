"""The form of PyTorch's attention that can be cut answers as PyTorch's own, on all of its paths."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces.layers.split_attention import split_attention, split_form

WIDTH, HEADS, SAMPLES, LENGTH, KEYS = 24, 4, 3, 5, 7
DRAWN = torch.Generator().manual_seed(0)
CAUSAL = torch.ones(LENGTH, LENGTH).triu(1).bool()

MODULES: dict[str, dict[str, Any]] = {
    "first": {"batch_first": True},
    "second": {"batch_first": False},
    "plain": {"batch_first": True, "bias": False},
    "learned": {"batch_first": True, "add_bias_kv": True, "add_zero_attn": True},
    "widths": {"kdim": 10, "vdim": 6, "batch_first": True},
}


def agree(module: nn.Module, *args: Any, eager: bool = True, **options: Any) -> None:
    """Compare both forms in training and evaluation, with gradients and without, when one operator may run it all."""
    split = split_attention(copy.deepcopy(module))
    for training in (False, True):
        for gradients in (False, True) if eager or training else (False,):
            with torch.set_grad_enabled(gradients):
                found = [part.train(training)(*args, **options) for part in (module, split)]
            for own, other in zip(*(one if isinstance(one, tuple) else (one,) for one in found), strict=True):
                assert (own is None) == (other is None)
                if own is not None:
                    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAWN)


def padding(length: int) -> Tensor:
    """Return a mask that leaves out none, one and two of the last places of three samples."""
    return torch.arange(length) >= torch.tensor([length, length - 1, length - 2])[:, None]


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_attention_answers_as_that_of_pytorch(name: str, needed: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, HEADS, **MODULES[name])
    x = drawn(SAMPLES, LENGTH, WIDTH)
    given = [(x, drawn(SAMPLES, KEYS, module.kdim), drawn(SAMPLES, KEYS, module.vdim))]
    given += [(x, x, x), (x, given[0][1], given[0][1])] if name != "widths" else []
    for one in given:
        length = one[1].shape[1]
        read = [part if module.batch_first else part.transpose(0, 1) for part in one]
        parts = [read[0], read[0] if one[1] is one[0] else read[1]]
        parts.append(parts[1] if one[2] is one[1] else read[2])
        masks: list[dict[str, Any]] = [{}, {"key_padding_mask": padding(length)}, {"attn_mask": drawn(LENGTH, length)}]
        masks.append({"attn_mask": drawn(SAMPLES * HEADS, LENGTH, length), "average_attn_weights": False})
        for mask in masks:
            agree(module, *parts, need_weights=needed, **mask)
    agree(module, *(part[0] for part in given[0])) if module.batch_first else None


@pytest.mark.parametrize("first", [True, False])
def test_a_stack_of_layers_answers_as_that_of_pytorch(first: bool) -> None:
    torch.manual_seed(0)
    x = drawn(SAMPLES, LENGTH, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Nested tensors are a prototype, and not for norms in front.
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, dropout=0.0, batch_first=True, norm_first=first)
        encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH))
        for mask in ({}, {"mask": CAUSAL}, {"mask": CAUSAL, "is_causal": True}):
            agree(encoder, x, **mask)
        for one in (padding(LENGTH), padding(LENGTH).flip(1), torch.zeros(3, LENGTH).masked_fill(padding(LENGTH), -torch.inf)):
            agree(encoder, x, src_key_padding_mask=one, eager=False)
        whole = nn.Transformer(WIDTH, HEADS, 1, 1, 32, dropout=0.0, batch_first=True)
        agree(whole, x, drawn(SAMPLES, KEYS, WIDTH))


def test_a_network_without_such_attention_is_taken_as_it_is() -> None:
    plain, attending = nn.Linear(2, 2), nn.MultiheadAttention(4, 2)
    assert split_form(plain) is plain
    made = split_form(attending)
    assert type(attending) is nn.MultiheadAttention
    assert made.state_dict().keys() == attending.state_dict().keys()
    with pytest.raises(RuntimeError, match="expected attn_mask beside the hint"):
        made(*[torch.randn(3, 1, 4)] * 3, is_causal=True)
