"""Bytes of keys and values that a network over tokens keeps of a token, by the interface of caches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluators.base import EvaluationContext
from evaluators.cost import Cost, CostSettings, count_cache_bytes
from spaces.errors import SecateursError
from spaces.layers.key_value_cache import cache_bytes_per_token

IDS = torch.tensor([[3, 1, 4, 1, 5, 9]])


@dataclass
class Cache:
    """Keys and values of two heads for every layer."""

    layers: list[Tensor] = field(default_factory=list)


@dataclass
class Answer:
    logits: Tensor
    past_key_values: Cache | None


class Layer(nn.Module):
    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.kv, self.window = nn.Linear(8, width), window

    def forward(self, x: Tensor, past_key_values: Cache | None = None) -> Tensor:
        kept = self.kv(x)
        if past_key_values is not None:
            past_key_values.layers.append(kept[:, -self.window :])
        return x + kept.mean(-1, keepdim=True)


class Decoder(nn.Module):
    """A decoder over tokens whose layers keep 4 and 6 numbers of each, the second of the last three alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(10, 8), nn.ModuleList([Layer(4, 99), Layer(6, 3)])

    def forward(self, ids: Tensor, use_cache: bool = False) -> Answer:
        cache = Cache() if use_cache else None
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, past_key_values=cache)
        return Answer(x, cache)


class Scores(nn.Module):
    """Logits of a decoder, which is not asked for its cache."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.head = Decoder(), nn.Linear(8, 10)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.decoder(ids, use_cache=False).logits)


class Translator(nn.Module):
    """A decoder beside an encoder, whose tokens a forward pass gives by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()

    def forward(self, pixels: Tensor, decoder_input_ids: Tensor, use_cache: bool = False) -> dict[str, Any]:
        found = self.decoder(decoder_input_ids, use_cache=use_cache)
        if found.past_key_values is not None:
            found.past_key_values.layers.append(pixels)
        return {"logits": found.logits, "past_key_values": found.past_key_values}


class Stuck(nn.Module):
    """A network whose cache holds the same of any number of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)

    def forward(self, ids: Tensor, past_key_values: Any = None) -> Answer:
        x = self.embed(ids)
        return Answer(x, Cache([x.mean(1)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("network", [Decoder, Scores])
def test_the_cache_grows_by_its_tensors_bytes(network: type[nn.Module], dtype: torch.dtype) -> None:
    model = network().to(dtype).train()
    assert cache_bytes_per_token(model, IDS) == cache_bytes_per_token(model, IDS[:, :1]) == (4 + 6) * dtype.itemsize
    assert model.training


def test_a_decoder_counts_the_tokens_that_it_decodes() -> None:
    def forward(model: nn.Module, pixels: Tensor) -> Tensor:
        found: Tensor = model(pixels, decoder_input_ids=IDS)["logits"]
        return found

    assert cache_bytes_per_token(Translator(), torch.randn(1, 3, 4, 4), forward) == (4 + 6) * 4


class Stated:
    """A task with token inputs."""

    cost_length = None

    def traced_inputs(self) -> Tensor:
        return IDS

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        return model(inputs)


def measured(model: nn.Module, costs: dict[str, float]) -> dict[str, float]:
    task: Any = Stated()
    context = EvaluationContext(task, torch.Generator(), torch.device("cpu"), 1.0, model, costs)
    return Cost(CostSettings(kv_cache=True)).evaluate(model, context)


def test_the_evaluator_adds_it_where_it_is_asked_for() -> None:
    model = Scores().eval()
    found = measured(model, {})
    assert found["kv_cache_bytes_per_token"] == count_cache_bytes(model, IDS) == 40.0
    assert set(found) == set(Cost(CostSettings(kv_cache=True)).metrics)
    assert "kv_cache_bytes_per_token" not in Cost(CostSettings()).metrics
    predicted = dict.fromkeys(Cost(CostSettings()).metrics, 1.0)
    assert measured(model, predicted) == {**predicted, "kv_cache_bytes_per_token": 40.0}


@pytest.mark.parametrize("model", [nn.Embedding(10, 3), Stuck()])
def test_a_network_without_a_cache_is_refused(model: nn.Module) -> None:
    task: Any = Stated()
    assert count_cache_bytes(model, IDS) is None
    for refused in (lambda: measured(model, {}), lambda: Cost(CostSettings(kv_cache=True)).check_network(model, task)):
        with pytest.raises(SecateursError, match="has no key-value cache.*leave kv_cache out"):
            refused()
    Cost(CostSettings()).check_network(model, task)


def test_inputs_by_name_are_cut_together() -> None:
    class Named(Decoder):
        def forward(self, input_ids: Tensor, mask: Tensor, use_cache: bool = False) -> Answer:  # type: ignore[override]
            found = super().forward(input_ids, use_cache)
            return Answer(found.logits * mask[..., None], found.past_key_values)

    assert cache_bytes_per_token(Named(), {"input_ids": IDS, "mask": torch.ones_like(IDS)}) == 40.0
