"""A sentence on the worth of a search: whether a uniform choice at equal cost would have done as well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search.report.view import error_of, network_words, primary_of, score_metric, score_of


def uniform_as_well(report: Mapping[str, Any]) -> bool | None:
    """Return whether the result leads the uniform baseline by no more than the standard error of their difference.

    The difference is that on the test split; its standard error is the root of the sum of both squared standard errors, as if
    the two networks erred on samples of their own, which overstates it where they err on the same ones. None without a uniform
    baseline or without both errors.
    """
    found = _lead(report)
    return None if found is None else found[0] <= found[1]


def verdict(report: Mapping[str, Any]) -> str:
    """Return the sentence, with the rule that it stands on; nothing where :func:`uniform_as_well` is not known.

    A result ahead of uniform gets the same sentence the other way round.
    """
    found = _lead(report)
    if found is None:
        return ""
    lead, error = found
    uniform = network_words("uniform", report)
    name = primary_of(report) or "top1"
    metric = score_metric(name, report)
    unit = " points" if metric.percent else ""
    amounts = [f"{metric.difference(0.0, amount).lstrip('+')}{unit}" for amount in (abs(lead), error)]
    ahead = f"{'+' if lead >= 0.0 else '-'}{amounts[0]}, standard error of the difference {amounts[1]}"
    rule = f"The lead over {uniform} on the test split is {ahead}"
    trained = any(history.get("variant") == "uniform" for history in report.get("baseline_histories") or [])
    case = f"For a target like this, {'trained like this' if trained else 'without training behind the search'}"
    if lead <= error:
        return f"{case}, uniform would have done as well. {rule}: not more than the error."
    return f"{case}, the search paid. {rule}."


def _lead(report: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the result's lead over the uniform baseline, above 0 if it is better, and the standard error of it."""
    result, uniform = report.get("result"), (report.get("baselines") or {}).get("uniform")
    own, other = score_of(result, primary_of(report)), score_of(uniform, primary_of(report))
    if own is None or other is None or own[0] != other[0]:
        return None
    errors = [error_of(network, own[0]) for network in (result, uniform)]
    if errors[0] is None or errors[1] is None:
        return None
    sign = 1.0 if score_metric(own[0], report).direction == "maximize" else -1.0
    return sign * (own[1] - other[1]), math.hypot(errors[0], errors[1])
