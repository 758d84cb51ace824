"""Describe metrics: words, unit, direction, and how their values are printed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Format:
    """Text form of the values of a metric.

    Attributes:
        unit: Text behind a value, such as `` ms``.
        scale: Factor of a value before printing: 100 for a share in per cent.
        digits: Digits behind the point; None for three significant digits and a magnitude, as in ``40.8 M``.
        ratio: Whether a change is told as a ratio, ``2.50x less``; else as a signed difference.
        brief_unit: Text behind a value in short notes.
    """

    unit: str = ""
    scale: float = 1.0
    digits: int | None = None
    ratio: bool = True
    brief_unit: str = ""


FORMATS: dict[str, Format] = {
    "share": Format(" %", scale=100.0, digits=2, ratio=False),
    "number": Format(digits=4, ratio=False),
    "count": Format(),
    "bytes": Format("B", brief_unit="B"),
    "milliseconds": Format(" ms"),
}


@dataclass(frozen=True)
class Metric:
    """Description of a metric, which every table, note and figure reads.

    Attributes:
        unit: Unit in words, such as ``multiply-accumulates per sample``.
        direction: ``maximize`` or ``minimize``, the better way.
        label: Name in words; empty for the metric's name with spaces for underscores.
        format: Name in :data:`FORMATS`; empty for ``share`` with the unit ``fraction``, and ``count`` with others.
        is_cost: Whether the metric grows with the network, so that seeking it alone leaves the smallest network; None for the
            metrics that are minimized. False for a loss.

    Raises:
        ValueError: Direction or format is unknown.
    """

    unit: str
    direction: Direction
    label: str = ""
    format: str = ""
    is_cost: bool | None = None

    def __post_init__(self) -> None:
        """Fill the format and ``is_cost`` in, where they are left out."""
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(f"direction: expected maximize or minimize, got {self.direction!r}")
        if not self.format:
            object.__setattr__(self, "format", "share" if self.unit == "fraction" else "count")
        if self.format not in FORMATS:
            raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.is_cost is None:
            object.__setattr__(self, "is_cost", self.direction == "minimize")

    @property
    def style(self) -> Format:
        """Format of the values."""
        return FORMATS[self.format]

    @property
    def percent(self) -> bool:
        """True if values are shares, shown in per cent."""
        return self.style.scale == 100.0

    def is_share(self, *values: float) -> bool:
        """Return whether ``values`` are shown in per cent: the metric is one of shares, and all are from 0 to 1."""
        return self.percent and all(0.0 <= value <= 1.0 for value in values)

    def text(self, value: float) -> str:
        """Return a value for a table: ``98.44 %``, ``0.0812``, ``40.8 M``, ``1.09 MB``, ``0.25 ms``."""
        style = self.style
        if self.percent and not self.is_share(value):
            return f"{value:.4g}"
        if style.digits is not None:
            return f"{_fixed(value * style.scale, style)}{style.unit}"
        if self.format == "milliseconds":
            return f"{value:.3g}{style.unit}"
        return _with_unit(value, style.unit)

    def with_error(self, value: float, error: float | None) -> str:
        """Return a value with its standard error, ``98.44 ± 0.12 %``; the value alone where ``error`` is None."""
        if error is None:
            return self.text(value)
        if self.percent and not self.is_share(value):
            return f"{value:.4g} ± {error:.2g}"
        if self.style.digits is None:
            return f"{self.text(value)} ± {self.text(error)}"
        found = self.text(value).removesuffix(self.style.unit)
        return f"{found} ± {_fixed(error * self.style.scale, self.style)}{self.style.unit}"

    def same(self, first: float, second: float) -> bool:
        """Return whether two values are told as one: shares to a hundredth of a point, others to a millionth of themselves."""
        if self.is_share(first, second):
            return abs(first - second) * self.style.scale < 0.5 * 10.0 ** -(self.style.digits or 0)
        return math.isclose(first, second, rel_tol=1e-6)

    def brief(self, value: float) -> str:
        """Return a value for a note of one line: with its magnitude, and of a size in bytes with the unit."""
        return _with_unit(value, self.style.brief_unit)

    def difference(self, before: float, after: float) -> str:
        """Return ``after - before``, signed: of shares in percentage points, ``-0.31``; of others ``+0.0012``, ``-3.1e-06``."""
        if self.percent and not self.is_share(before, after):
            return f"{after - before:+.4g}"
        return _fixed((after - before) * self.style.scale, self.style, "+")

    def change(self, before: float, after: float) -> str:
        """Return a change in words: ``+0.22 points``, ``-0.0100``, ``2.50x less`` or ``1.20x more``; ``-`` without a base."""
        if self.style.ratio or (self.percent and not self.is_share(before, after)):
            if not before or not after:
                return "-"
            return f"{before / after:.2f}x less" if after <= before else f"{after / before:.2f}x more"
        return self.difference(before, after) + (" points" if self.percent else "")

    def named(self, name: str) -> Metric:
        """Return the description with a label: its own, else the metric's ``name`` with spaces for underscores."""
        return self if self.label else replace(self, label=name.replace("_", " "))

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON data, for :func:`metric_from_json`."""
        return asdict(self)


def _cost(unit: str, label: str, format: str = "count") -> Metric:
    return Metric(unit, "minimize", label, format, is_cost=True)


METRICS: dict[str, Metric] = {
    "top1": Metric("fraction", "maximize", "top-1 accuracy"),
    "top5": Metric("fraction", "maximize", "top-5 accuracy"),
    "miou": Metric("fraction", "maximize", "mean IoU", "number"),
    "f1": Metric("fraction", "maximize", "F1", "number"),
    "r2": Metric("share of the variance", "maximize", "R2", "number"),
    "perplexity": Metric("exp of nats per token", "minimize", "perplexity", "number", is_cost=False),
    "loss": Metric("nats", "minimize", "loss", "number", is_cost=False),
    "agreement": Metric("fraction", "maximize", "agreement with the dense network"),
    "divergence": Metric("nats, or share of the outputs' variance", "minimize", "divergence", "number", is_cost=False),
    "divergence_error": Metric(
        "standard error of the divergence", "minimize", "standard error of the divergence", "number", is_cost=False
    ),
    "omega": Metric("nats", "minimize", "Omega", is_cost=False),
    "macs": _cost("multiply-accumulates per sample", "MACs"),
    "parameters": _cost("numbers", "parameters"),
    "size_bytes": _cost("bytes", "size", "bytes"),
    "peak_activation_bytes": _cost("bytes of activations that live together, one sample", "peak activations", "bytes"),
    "kv_cache_bytes_per_token": _cost("bytes of keys and values kept of a token", "key-value cache per token", "bytes"),
    "bit_operations": _cost("bit operations per sample", "bit operations"),
    "weight_bits": _cost("bits per weight of the quantized layers, on average", "bits per weight"),
    "latency_ms": _cost("ms", "latency", "milliseconds"),
}
"""The metrics of the shipped evaluators, in the order of tables."""


def find_metric(name: str, described: Mapping[str, Metric] | None = None) -> Metric:
    """Return the description of the metric ``name``, with a label.

    Args:
        name: The metric.
        described: Descriptions of other metrics, which go before the shipped ones.

    Returns:
        The description; for an unknown metric a guess by the name: ``top10`` is a share, ``..._bytes`` a size.
    """
    known = (described or {}).get(name) or METRICS.get(name)
    if known is None and re.fullmatch(r"top\d+", name):
        known = Metric("fraction", "maximize")
    if known is None:
        known = Metric("", "minimize", format="bytes" if name.endswith("_bytes") else "count")
    return known.named(name)


def metric_from_json(entry: Mapping[str, Any]) -> Metric:
    """Return the metric that ``entry`` describes, as :meth:`Metric.to_json` returned it.

    Raises:
        ValueError: ``entry`` is no such description.
    """
    texts = [entry.get(key) for key in ("unit", "direction", "label", "format")]
    cost = entry.get("is_cost")
    if not all(isinstance(text, str) for text in texts) or not isinstance(cost, bool):
        raise ValueError(f"expected unit, direction, label, format and is_cost, got {dict(entry)!r}")
    unit, direction, label, style = (str(text) for text in texts)
    return Metric(unit, direction, label, style, cost)  # type: ignore[arg-type]


def _fixed(value: float, style: Format, sign: str = "") -> str:
    """Return a number with the digits of a format; one that is no share and would lose them all with three significant ones."""
    digits = 4 if style.digits is None else style.digits
    if style.scale == 1.0 and 0.0 < abs(value) < 10.0 ** (1 - digits):
        return f"{value:{sign}.3g}"
    return f"{value:{sign}.{digits}f}"


def magnitude(value: float) -> str:
    """Return a number with three significant digits and its magnitude: ``40.8 M``."""
    for limit, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}" if abs(value) < 999.5 * limit else f"{value / limit:.0f}{suffix}"
    return f"{value:.4g}"


def _with_unit(value: float, unit: str) -> str:
    """Return a number with its magnitude and a unit, such as ``1.09 MB`` or ``12 B``."""
    if unit == "B":
        return f"{magnitude(value)}B" if value >= 1e3 else f"{value:.0f} B"
    return f"{magnitude(value)}{unit}"
