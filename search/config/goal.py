"""Budgets as a person writes them on a command line: ``macs<=30%``, and sweeps over several, ``macs=10%..60%:6``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from search.config.block import Limit, parse_limit
from spaces.errors import SecateursError

MOST_BUDGETS = 100
"""Most budgets of one sweep."""

_METRIC = r"\s*(?P<metric>[A-Za-z_]\w*)\s*"
_BUDGET = re.compile(_METRIC + r"(?P<limit>[<>=].*)")
_SWEEP = re.compile(_METRIC + r"=\s*(?P<first>[^:]+?)\s*\.\.\s*(?P<last>[^:]+?)\s*:\s*(?P<count>[0-9]{1,4})\s*")


@dataclass(frozen=True)
class Budget:
    """Limits that one network is to keep.

    Attributes:
        limits: The limit of every metric.
    """

    limits: Mapping[str, Limit]

    @property
    def name(self) -> str:
        """Text for the name of a folder, such as ``macs-30pct``."""
        return "-".join(f"{metric}-{_short(limit)}" for metric, limit in self.limits.items())


def parse_budgets(texts: Iterable[str], sweep: str | None = None) -> list[Budget]:
    """Return the budgets that texts and a sweep ask for, each once, in their order.

    Args:
        texts: A budget each, such as ``macs<=30%``, or ``macs<=30%,parameters<=50%`` for one network that keeps both.
        sweep: Evenly spaced limits on one metric, such as ``macs=10%..60%:6``, both ends among them.

    Raises:
        SecateursError: A text is no budget, or there is none.
    """
    found = [_budget(text) for text in texts]
    if sweep is not None:
        found += _swept(sweep)
    if not found:
        raise SecateursError('expected a budget such as "macs<=30%", or --sweep macs=10%..60%:6; got neither')
    return list({budget.name: budget for budget in found}.values())


def _budget(text: str) -> Budget:
    limits: dict[str, Limit] = {}
    for part in text.split(","):
        match = _BUDGET.fullmatch(part)
        if match is None:
            raise SecateursError(f'budget {text!r}: expected a metric and its limit, such as "macs<=30%", got {part!r}')
        metric = match["metric"]
        if metric in limits:
            raise SecateursError(f"budget {text!r}: expected one limit on {metric}, got two")
        limits[metric] = _limit(match["limit"], text)
    return Budget(limits)


def _swept(text: str) -> list[Budget]:
    match = _SWEEP.fullmatch(text)
    if match is None:
        raise SecateursError(f"--sweep {text!r}: expected METRIC=FIRST..LAST:NUMBER, such as macs=10%..60%:6")
    count, ends = int(match["count"]), [_limit(match[name], text) for name in ("first", "last")]
    if ends[0].relative != ends[1].relative:
        raise SecateursError(f"--sweep {text!r}: expected both ends in per cent, or both in the metric's unit")
    if not 2 <= count <= MOST_BUDGETS:
        raise SecateursError(f"--sweep {text!r}: expected 2 to {MOST_BUDGETS} budgets, got {count}")
    if ends[0].value == ends[1].value:
        raise SecateursError(f"--sweep {text!r}: expected two different ends")
    step = (ends[1].value - ends[0].value) / (count - 1)
    # Rounded, so that 10 % to 60 % by six are 10, 20, 30 %, and not 30.000000000000004.
    values = [float(f"{ends[0].value + place * step:.12g}") for place in range(count)]
    return [Budget({match["metric"]: Limit(value, ends[0].relative)}) for value in values]


def _limit(text: str, whole: str) -> Limit:
    try:
        return parse_limit(text)
    except ValueError as error:
        raise SecateursError(f"{whole!r}: {error}") from None


def _short(limit: Limit) -> str:
    number = f"{limit.value * 100:.12g}pct" if limit.relative else f"{limit.value:.12g}"
    return number.replace("+", "")
