"""Caches of transformers' decoders: the bytes of a token are those of the cache's own tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces.layers.key_value_cache import cache_bytes_per_token
from tests.zoo.transformers_architectures import LENGTH, TRANSFORMERS, ids

pytest.importorskip("transformers", reason="transformers is not installed: `uv sync --group zoo`")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ALONE = "gpt2 gptj gpt_neo gpt_neox opt bloom falcon llama mistral mixtral qwen2 qwen3 gemma gemma2 phi phi3 starcoder2".split()


def built(name: str, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(name, **{**TRANSFORMERS[name].options, **options})).eval()


def size(cache: Any) -> int:
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    found: Tensor = model(tokens, use_cache=False)[0]
    return found


@pytest.mark.parametrize("name", ALONE)
def test_a_decoder(name: str) -> None:
    model = built(name)
    expected = size(model(ids(), use_cache=True).past_key_values) / LENGTH
    assert cache_bytes_per_token(model, ids(), TRANSFORMERS[name].forward) == expected
    assert cache_bytes_per_token(model, ids(), logits) == expected


def test_grouped_queries_half_precision_and_a_window() -> None:
    two, one = (built("llama", num_hidden_layers=3, num_key_value_heads=heads) for heads in (2, 1))
    assert cache_bytes_per_token(two, ids()) == 2 * 3 * 2 * 16 * 4
    assert cache_bytes_per_token(one.bfloat16(), ids()) == 2 * 3 * 1 * 16 * 2
    assert cache_bytes_per_token(built("mistral", sliding_window=4), ids()) == 2 * 2 * 2 * 16 * 4


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_a_decoder_beside_an_encoder(name: str) -> None:
    architecture = TRANSFORMERS[name]
    model = built(name)
    assert cache_bytes_per_token(model, architecture.inputs(), architecture.forward) == 2 * 2 * 64 * 4


@pytest.mark.parametrize("name", ["bert", "mamba", "vit"])
def test_a_network_without_a_cache_of_tokens(name: str) -> None:
    architecture = TRANSFORMERS[name]
    assert cache_bytes_per_token(built(name), architecture.inputs(), architecture.forward) is None
