"""Depth of networks of transformers: attention and MLPs leave, and key-value caches go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.cost import count_costs
from spaces.candidate import Candidate
from spaces.depth import Depth

transformers = pytest.importorskip("transformers", reason="transformers is not installed: `uv sync --group zoo`")

IDS = torch.arange(1, 8)[None]
SMALL: dict[str, Any] = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
LLAMA = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 32},
    "gpt2": {**SMALL, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32},
    "llama": {**SMALL, **LLAMA},
    "t5": {
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 32,
        "num_layers": 3,
        "num_heads": 4,
        "vocab_size": 32,
        "decoder_start_token_id": 0,
    },
    "gptj": {**SMALL, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32, "rotary_dim": 4},
}


def made(kind: str, auto: Any = None) -> nn.Module:
    """Return a tiny network of an architecture, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **KINDS[kind])
        network: nn.Module = (auto or transformers.AutoModel).from_config(config).eval()
    return network


def first(model: nn.Module, ids: Tensor) -> Tensor:
    """Run a network, and return the first of its outputs."""
    given = {"decoder_input_ids": ids} if "T5" in type(model).__name__ else {}
    output: Tensor = model(ids, **given)[0]
    return output


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "t5" else kind for kind in KINDS])
def test_attention_and_mlp_of_every_layer_are_branches(kind: str) -> None:
    model = made(kind)
    space = Depth(model, IDS, forward=first)
    assert len(space.units) == (15 if kind == "t5" else 6)
    assert space.open_share() > 0.95
    rng = np.random.default_rng(0)
    for candidate in (space.sample(rng), space.sample(rng), space.cheapest()):
        assert space.check(model, candidate) <= 1e-9
        counted = count_costs(space.realize(model, candidate), IDS, first)
        assert {name: value for name, value in space.costs(candidate).items() if name in counted} == counted


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_text_is_generated_with_the_cache_as_without(kind: str) -> None:
    model = made(kind, transformers.AutoModelForCausalLM)
    space = Depth(model, IDS, forward=first)
    gone = [name for name in space.domains if "attn" in name][:2]
    small: Any = space.realize(model, Candidate({name: int(name not in gone) for name in space.domains}))
    with torch.no_grad():
        cached, plain = (small.generate(IDS, max_new_tokens=12, do_sample=False, use_cache=use) for use in (True, False))
        step = small(cached[:, :4], use_cache=True)
        followed = small(cached[:, 4:], past_key_values=step.past_key_values).logits
    assert torch.equal(cached, plain)
    torch.testing.assert_close(followed, small(cached).logits[:, 4:], rtol=1e-4, atol=1e-5)
