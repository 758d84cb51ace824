"""Count the costs of a network: multiply-accumulates, parameters, bytes, bit operations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.metrics import METRICS, Metric
from evaluators.task import Task
from spaces.base import SearchSpace
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.execution.batch import Nested, count_samples, describe, select, to_device
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, call
from spaces.layers.activation_memory import peak_bytes, watched_memory
from spaces.layers.key_value_cache import cache_bytes_per_token
from spaces.layers.macs import MacsCounter
from spaces.quantization.cost import average_weight_bits, counted_parameters, operation_bits, stored_bytes


def _beside(model: nn.Module, inputs: Nested) -> Nested:
    """Return a batch on the device of ``model``."""
    parameter = next(model.parameters(), None)
    return inputs if parameter is None else to_device(inputs, parameter.device)


def _run(model: nn.Module, example_inputs: Nested, forward: Forward) -> None:
    """Run ``model`` in evaluation mode, on its own device."""
    inputs = _beside(model, example_inputs)
    try:
        with evaluation_mode(model), torch.no_grad():
            forward(model, inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"the forward pass of {type(model).__name__} on a batch of {describe(example_inputs)} failed: {error}"
        ) from error


def count_module_macs(model: nn.Module, example_inputs: Nested, forward: Forward = call) -> dict[str, int]:
    """Return the multiply-accumulates of a batch by the innermost module that computes them; "" is the network itself.

    Arguments and errors are those of :func:`count_costs`, which says what is counted.
    """
    counter = MacsCounter()
    with counter.counting(model):
        _run(model, example_inputs, forward)
    return dict(counter.macs)


def count_costs(model: nn.Module, example_inputs: Nested, forward: Forward = call) -> dict[str, float]:
    """Return ``macs``, ``parameters``, ``size_bytes`` and ``bit_operations`` of ``model``, by running it once.

    ``macs`` are the multiply-accumulates of one sample in convolutions, matrix products, attention and recurrent layers,
    wherever they are computed: half the count of ``torch.utils.flop_counter``, with the operators that it leaves out
    (:mod:`spaces.layers.operator_macs`). Biases, normalisation, activations and pooling are not counted. ``size_bytes`` are
    those of all tensors of the state dict, the weights of a quantized network in their stored form as integers;
    ``bit_operations`` are MACs times the bits of the weights times those of the inputs, 32 each in float.

    Args:
        model: The network; left unchanged.
        example_inputs: A batch; costs are per sample.
        forward: Runs the network on the batch; by default as :func:`spaces.execution.forward.call` does.

    Raises:
        UnsupportedModelError: The forward pass fails.
    """
    samples = count_samples(example_inputs)
    found = count_module_macs(model, example_inputs, forward)
    macs = sum(found.values())
    operations = sum(own * operation_bits(model.get_submodule(name)) for name, own in found.items())
    return {
        "macs": float(macs // samples),
        "parameters": float(counted_parameters(model)),
        "size_bytes": float(stored_bytes(model)),
        "bit_operations": float(operations // samples),
    }


def count_peak_activation_bytes(model: nn.Module, example_inputs: Nested, forward: Forward = call) -> float:
    """Return the largest number of bytes of activations that live together in the forward pass of one sample.

    An activation lives from the operator that makes it until nothing refers to it any more; the input is one, parameters,
    buffers and memory that an operator takes inside itself are not.

    Args:
        model: The network; left unchanged.
        example_inputs: A batch, of which the first sample is run.
        forward: Runs the network on the batch; by default as :func:`spaces.execution.forward.call` does.

    Raises:
        UnsupportedModelError: The forward pass fails.
    """
    with watched_memory(model) as memory:
        _run(model, select(example_inputs, 0, 1), forward)
    return peak_bytes(memory.activations)


def count_cache_bytes(model: nn.Module, example_inputs: Nested, forward: Forward = call) -> float | None:
    """Return the bytes of keys and values that ``model`` keeps of a token; None for a network without a cache.

    Arguments are those of :func:`count_costs`; :func:`spaces.layers.key_value_cache.cache_bytes_per_token` says what counts.
    """
    return cache_bytes_per_token(model, _beside(model, example_inputs), forward)


NO_TABLE = (
    "cost: latency needs a table of every layer's milliseconds in search.space.latency, and a target on latency_ms an absolute "
    "limit, since the table does not know the network in float"
)


AT_A_LENGTH = ("macs", "bit_operations", "peak_activation_bytes", "latency_ms")
"""Costs that depend on the number of tokens."""

OPTIONAL = {
    "activations": "peak_activation_bytes",
    "kv_cache": "kv_cache_bytes_per_token",
    "weight_bits": "weight_bits",
}
"""Costs that an option adds, by its name."""

NO_CACHE = (
    "cost: kv_cache counts what a network over tokens keeps of each, and this one has no key-value cache: none of its modules "
    "gives or takes past_key_values, or what it holds does not grow from one token to two; leave kv_cache out"
)


@dataclass(frozen=True)
class CostSettings:
    """Options of :class:`Cost`.

    Attributes:
        activations: Whether to add ``peak_activation_bytes``, the memory that activations take, of one sample.
        kv_cache: Whether to add ``kv_cache_bytes_per_token``, the keys and values that a network over tokens keeps of each.
        weight_bits: Whether to add ``weight_bits``, the bits per weight of the quantized layers, on average.
        latency: Whether to read ``latency_ms`` off the latency table of the space (``space.latency``).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    activations: bool = False
    kv_cache: bool = False
    weight_bits: bool = False
    latency: bool = False


class Cost(Evaluator):
    """Multiply-accumulates per sample, parameters, bytes and bit operations.

    The space's predictions where they are complete, else counts on the network by :func:`count_costs`. An option that adds a
    cost need not be set where the search seeks or limits that cost.
    """

    Settings = CostSettings
    rank = 0

    def __init__(self, settings: CostSettings) -> None:
        """Keep ``settings``."""
        self.settings = settings

    @classmethod
    def asked_for(cls, settings: CostSettings, metrics: Collection[str]) -> CostSettings:
        """Return the settings with the options of the costs among ``metrics`` set."""
        return replace(settings, **{option: True for option, metric in OPTIONAL.items() if metric in metrics})

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``macs``, ``parameters``, ``size_bytes``, ``bit_operations``, and those that the settings ask for."""
        names = ["macs", "parameters", "size_bytes", "bit_operations"]
        names += ["peak_activation_bytes"] if self.settings.activations else []
        names += ["kv_cache_bytes_per_token"] if self.settings.kv_cache else []
        names += ["weight_bits"] if self.settings.weight_bits else []
        names += ["latency_ms"] if self.settings.latency else []
        return {name: METRICS[name] for name in names}

    def metrics_for(self, task: Task) -> Mapping[str, Metric]:
        """Return the metrics, the label of each that depends on the number of tokens with :attr:`.Task.cost_length`."""
        if task.cost_length is None:
            return self.metrics
        stated = f"at {task.cost_length:,} tokens"
        return {
            name: replace(metric, label=f"{metric.label} {stated}") if name in AT_A_LENGTH else metric
            for name, metric in self.metrics.items()
        }

    def check(self, space: SearchSpace[Any]) -> None:
        """Check that ``space`` has a latency table, if ``settings.latency`` asks for one.

        Raises:
            SecateursError: The space has none.
        """
        if self.settings.latency:
            candidate = space.cheapest()
            if candidate is None or "latency_ms" not in space.costs(candidate):
                raise SecateursError(NO_TABLE)

    def check_network(self, model: nn.Module, task: Task) -> None:
        """Check that ``model`` has a key-value cache, if ``settings.kv_cache`` asks for its size.

        Raises:
            SecateursError: The network has none.
        """
        if self.settings.kv_cache:
            self._cache_bytes(model, task)

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Return the costs of ``model``.

        Raises:
            SecateursError: ``settings.latency`` is set and the space has no latency table, or ``settings.kv_cache`` and the
                network has no cache.
        """
        if self.settings.latency and "latency_ms" not in context.costs:
            raise SecateursError(NO_TABLE)
        cache = {"kv_cache_bytes_per_token": self._cache_bytes(model, context.task)} if self.settings.kv_cache else {}
        if all(name in context.costs for name in self.metrics if name not in cache):
            return {name: float(context.costs[name]) for name in self.metrics if name not in cache} | cache
        inputs, forward = context.task.traced_inputs(), context.task.forward
        found = count_costs(model, inputs, forward)
        if self.settings.activations:
            found["peak_activation_bytes"] = count_peak_activation_bytes(model, inputs, forward)
        if self.settings.weight_bits:
            found["weight_bits"] = average_weight_bits(model)
        return found | cache

    def _cache_bytes(self, model: nn.Module, task: Task) -> float:
        found = count_cache_bytes(model, task.traced_inputs(), task.forward)
        if found is None:
            raise SecateursError(NO_CACHE)
        return found
