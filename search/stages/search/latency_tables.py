"""Latency known before a search: of the reference, and of every candidate from a table of its layers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from evaluators.base import Metric
from evaluators.latency.latency import Latency
from evaluators.latency.layer_cache import LayerCache
from evaluators.latency.table import fitted, measure_table
from evaluators.task import Task
from search.output.log_records import PACKAGE
from search.run.record_file import RecordFile
from spaces.base import SearchSpace
from spaces.candidate import Candidate, KeepMask, Value, first_channels
from spaces.domains import Domain
from spaces.errors import SecateursError
from spaces.execution.batch import describe
from spaces.files.recorded_settings import as_recorded
from spaces.latency.layer_latency import MeasuredLatency

FILE = "latency.json"
SIZES = ((1.0, 1.0), (0.7, 0.7), (0.45, 0.45), (0.25, 0.25), (0.9, 0.35), (0.35, 0.9))
"""Shares kept by even-numbered and by odd-numbered decisions, of each network that a table is fitted to."""

PARTS: tuple[tuple[float, tuple[int, ...]], ...] = ((1.0, (1, 0)), (1.0, (0, 1)), (0.7, (1, 0, 0)), (1.0, (0,)))
"""Further networks where parts may leave whole: the share kept by other decisions, and the pattern of the parts that stay."""


Milliseconds = Annotated[float, Field(ge=0.0)]


Count = Annotated[int, Field(ge=0, le=2**48)]


class Shape(TypedDict):
    """A layer of a latency table, as :class:`.LayerShape` has it."""

    kind: Literal["conv", "conv_transpose", "linear"]
    in_channels: Count
    out_channels: Count
    size: list[Count]
    kernel: list[Count]
    stride: list[Count]
    padding: list[Count]
    dilation: list[Count]
    groups: Count
    calls: Count


class Coefficients(TypedDict):
    """Coefficients of a latency table."""

    ms_per_layer_ms: float
    ms_per_million_outputs: float
    ms_per_megabyte: float
    fixed: float
    ms_per_million_products: NotRequired[float]
    ms_per_part: NotRequired[dict[str, float]]


class Table(TypedDict):
    """A latency table of layers, as :meth:`.MeasuredLatency.to_json` writes it."""

    shapes: dict[str, Shape]
    times: dict[str, list[Annotated[list[Milliseconds], Field(min_length=5, max_length=5)]]]
    coefficients: Coefficients


class LatencyFile(TypedDict):
    """Content of ``latency.json``."""

    of: dict[str, Any]
    reference: NotRequired[Milliseconds]
    table: NotRequired[Table]


class LatencyTables:
    """Latency of the reference and of layers; measured once and kept, so that a resumed search reads the same.

    Args:
        latency: The search's evaluator of latency.
        model: The network that enters the search.
        reference: The network that relative limits refer to.
        task: Data and forward pass.
        folder: Where the answers are kept, for the search and its baselines; None keeps only what the cache keeps.
        log: Takes a line about what is being measured.
        warn: Takes a line about a damaged file.
    """

    def __init__(
        self,
        latency: Latency,
        model: nn.Module,
        reference: nn.Module,
        task: Task,
        folder: Path | None,
        log: Callable[[str], None],
        warn: Callable[[str], None] = PACKAGE.warning,
    ) -> None:
        """Read the answers kept in ``folder``, unless they are of other networks or settings."""
        self._latency, self._model, self._reference, self._task, self._log = latency, model, reference, task, log
        again = "latency is measured again; where it differs, the search can't go on with the trials that it has, and says so"
        self._warn = warn
        self._file = None if folder is None else RecordFile(folder / FILE, LatencyFile, again, warn)
        networks = {"model": self._key(model), "reference": self._key(reference)}
        self._stored: dict[str, Any] = {"of": {**asdict(latency.settings), **networks}}
        found: Any = None if self._file is None else self._file.read()
        # As JSON has it, which knows no tuples.
        if found is not None and found["of"] == json.loads(
            json.dumps({**as_recorded(latency.settings, found["of"]), **networks})
        ):
            self._stored = {**found}

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Metrics that the evaluator measures."""
        return self._latency.metrics

    def fit(self, space: SearchSpace[Any]) -> None:
        """Give ``space`` a table of layer latencies in mode ``table``; in other modes do nothing.

        Raises:
            SecateursError: The space can't add up latency from layers, or a layer can't be measured.
        """
        if self._latency.settings.mode != "table":
            return
        if not space.open_layers():
            raise SecateursError(
                f"evaluate.latency: the space {type(space).__name__} can't add up the latency of a candidate from its layers; "
                "expected mode: measured"
            )
        if "table" not in self._stored:
            self._store("table", self._measured(space).to_json())
        space.use_latency(MeasuredLatency.from_json(self._stored["table"]))

    def reference(self) -> float:
        """Return the measured latency of the reference."""
        if "reference" not in self._stored:
            self._store("reference", self._network(self._reference))
        return float(self._stored["reference"])

    def smallest(self, space: SearchSpace[Any]) -> float | None:
        """Return the latency of the cheapest candidate, None where it is not known which that is.

        In mode ``table`` it is the table's, so that :meth:`fit` comes first.
        """
        candidate = space.cheapest()
        if candidate is None:
            return None
        told = space.costs(candidate).get("latency_ms")
        if self._latency.settings.mode == "table" and told is not None:
            return told
        return self._network(space.realize(self._model, candidate))

    def _measured(self, space: SearchSpace[Any]) -> MeasuredLatency:
        settings, conditions, timer = self._latency.settings, self._latency.settings.conditions, self._latency.timer
        candidates = _candidates(space)
        self._log(f"measuring layers and {len(candidates)} whole networks in {settings.backend}")
        layers = space.open_layers()
        table = measure_table(layers, settings.points, settings.batch_size, conditions, timer, self._cache())
        times = [self._network(space.realize(self._model, candidate)) for candidate in candidates]
        loads = [space.latency_terms(candidate) for candidate in candidates]
        return fitted(table, loads, times, [space.latency_beside(candidate) for candidate in candidates])

    def _network(self, model: nn.Module) -> float:
        """Return the latency of a network, measured unless one of this structure was."""
        cache, key = self._cache(), self._key(model)
        if cache.get(key) is None:
            (timing,) = self._latency.timings([model], self._task)
            cache.add({key: timing.median})
        return cache[key]

    def _key(self, model: nn.Module) -> str:
        inputs = self._task.traced_inputs()
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else describe(inputs)
        text = f"{type(model).__module__} {model} {shape} {self._latency.settings.batch_size}"
        return f"network {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _cache(self) -> LayerCache:
        conditions = self._latency.settings.conditions
        return LayerCache(self._latency.settings.cache, self._latency.timer.machine(conditions), conditions, self._warn)

    def _store(self, name: str, value: Any) -> None:
        self._stored[name] = value
        if self._file is not None:
            self._file.write(self._stored)


def _candidates(space: SearchSpace[Any]) -> list[Candidate]:
    """Return the candidates that a table is fitted to: with every part that may leave whole, then with fewer of them."""
    parts = [part.name for part in space.removable]
    whole = Candidate(dict.fromkeys(parts, 1))
    found = [_candidate(space, *shares).joined(whole) for shares in SIZES]
    for share, left in PARTS if parts else ():
        candidate = _candidate(space, share, share).joined(whole)
        for place, name in enumerate(parts):
            fewer = candidate.joined(Candidate({name: 0}))
            if place % len(left) not in {at for at, stays in enumerate(left) if stays} and space.excess(fewer) == 0.0:
                candidate = fewer
        found.append(candidate)
    return list(dict.fromkeys(found))


def _candidate(space: SearchSpace[Any], even: float, odd: float) -> Candidate:
    """Return a candidate that keeps the share ``even`` in even-numbered decisions and ``odd`` in the others."""
    shares = (even, odd)
    return Candidate({name: _value(domain, shares[place % 2]) for place, (name, domain) in enumerate(space.domains.items())})


def _value(domain: Domain, share: float) -> Value | KeepMask:
    if domain.channels:
        kept = min(domain.legal_counts(), key=lambda count: abs(count - share * domain.channels))
        return first_channels(kept, domain.channels)
    if domain.choices:
        options = sorted(domain.choices, key=lambda option: (str(type(option)), option))
        return options[round(share * (len(options) - 1))]
    raise SecateursError(
        f"evaluate.latency: a table needs decisions on channels or bits, got {domain.describe}; expected mode: measured"
    )
