"""Tiny networks of transformers' architectures: from configurations, with random weights, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100}
GROUPED = {**WIDE, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 16, "pad_token_id": 0}
SEEN = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64}
BOTH = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
LENGTH, SIDE = 16, 64


def ids() -> Tensor:
    """Return token numbers of shape ``(1, LENGTH)``."""
    return torch.arange(3, 3 + LENGTH).reshape(1, LENGTH)


def image(side: int = SIDE) -> Tensor:
    """Return an image of shape ``(1, 3, side, side)``."""
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def first(outputs: Any) -> Tensor:
    """Return the first tensor of a model's output."""
    found: Tensor = next(value for value in outputs.to_tuple() if isinstance(value, Tensor))
    return found


def by_name(name: str) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a forward pass that hands its input on as the argument ``name``."""
    return lambda model, inputs: first(model(**{name: inputs}))


def with_decoder(model: nn.Module, inputs: Tensor) -> Tensor:
    """Run encoder and decoder on the same tokens."""
    return first(model(input_ids=inputs, decoder_input_ids=inputs))


def heard(model: nn.Module, inputs: Tensor) -> Tensor:
    """Run Whisper's encoder on a spectrogram and its decoder on eight tokens."""
    return first(model(input_features=inputs, decoder_input_ids=torch.arange(3, 11).reshape(1, 8)))


@dataclass(frozen=True)
class Architecture:
    """A tiny configuration, and how its network is called.

    Attributes:
        options: Fields of the configuration.
        inputs: Makes the input of a sample.
        forward: Runs the network on it.
    """

    options: dict[str, Any]
    inputs: Callable[[], Tensor] = ids
    forward: Callable[[nn.Module, Tensor], Tensor] = field(default_factory=lambda: by_name("input_ids"))


def text(**options: Any) -> Architecture:
    return Architecture(options)


def seen(side: int = SIDE, **options: Any) -> Architecture:
    return Architecture(options, lambda: image(side), by_name("pixel_values"))


def sequence(**options: Any) -> Architecture:
    return Architecture(options, ids, with_decoder)


def sound(length: int = 800, **options: Any) -> Architecture:
    wave = torch.randn(1, length, generator=torch.Generator().manual_seed(0))
    return Architecture(options, lambda: wave, by_name("input_values"))


_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64}
_STAGED = {"hidden_sizes": [16, 32], "depths": [1, 1]}

TRANSFORMERS: dict[str, Architecture] = {
    "bert": text(**WIDE, max_position_embeddings=64),
    "roberta": text(**WIDE, max_position_embeddings=64),
    "xlm-roberta": text(**WIDE, max_position_embeddings=64),
    "distilbert": text(dim=64, n_layers=2, n_heads=4, hidden_dim=128, vocab_size=100, max_position_embeddings=64),
    "albert": text(**WIDE, embedding_size=32, max_position_embeddings=64),
    "electra": text(**WIDE, embedding_size=32, max_position_embeddings=64),
    "mpnet": text(**WIDE, max_position_embeddings=64),
    "deberta-v2": text(**WIDE, max_position_embeddings=64),
    "squeezebert": text(**WIDE, embedding_size=64, max_position_embeddings=64),
    "gpt2": text(**_GPT),
    "gptj": text(**_GPT, rotary_dim=8),
    "gpt_neo": text(
        hidden_size=64, num_layers=2, num_heads=4, vocab_size=100, max_position_embeddings=64, attention_types=[[["global"], 2]]
    ),
    "gpt_neox": text(**WIDE, max_position_embeddings=64),
    "opt": text(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        vocab_size=100,
        max_position_embeddings=64,
        word_embed_proj_dim=64,
    ),
    "bloom": text(hidden_size=64, n_layer=2, n_head=4, vocab_size=100),
    "falcon": text(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=100),
    "llama": text(**GROUPED),
    "mistral": text(**GROUPED),
    "mixtral": text(**GROUPED, num_local_experts=4),
    "qwen2": text(**GROUPED),
    "qwen3": text(**GROUPED),
    "gemma": text(**GROUPED),
    "gemma2": text(**GROUPED),
    "phi": text(**{**GROUPED, "num_key_value_heads": 4}),
    "phi3": text(**GROUPED),
    "olmo": text(**GROUPED),
    "stablelm": text(**GROUPED),
    "starcoder2": text(**GROUPED),
    "granite": text(**GROUPED),
    "mamba": text(hidden_size=64, num_hidden_layers=2, vocab_size=100, state_size=8),
    "t5": sequence(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_decoder_layers=2, num_heads=4, vocab_size=100),
    "bart": sequence(**BOTH),
    "mbart": sequence(**BOTH),
    "pegasus": sequence(**BOTH),
    "whisper": Architecture(
        {**BOTH, "num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 16, "pad_token_id": 0},
        lambda: torch.randn(1, 16, 60, generator=torch.Generator().manual_seed(0)),
        heard,
    ),
    "vit": seen(**SEEN),
    "deit": seen(**SEEN),
    "beit": seen(**SEEN),
    "data2vec-vision": seen(**SEEN),
    "dinov2": seen(56, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56),
    "yolos": seen(**{**SEEN, "image_size": [64, 64]}),
    "siglip_vision_model": seen(**SEEN),
    "clip_vision_model": seen(**SEEN),
    "swin": seen(image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4),
    "swinv2": seen(image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4),
    "segformer": seen(hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 8]),
    "poolformer": seen(hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]),
    "convnext": seen(**_STAGED, num_stages=2),
    "convnextv2": seen(**_STAGED, num_stages=2),
    "regnet": seen(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], groups_width=8),
    "resnet": seen(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1]),
    "mobilenet_v2": seen(depth_multiplier=0.35),
    "wav2vec2": sound(**WIDE, conv_dim=[32] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4),
    "hubert": sound(**WIDE, conv_dim=[32] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4),
}
"""Configurations by ``model_type``."""
