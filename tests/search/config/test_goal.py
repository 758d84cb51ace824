"""Budgets on a command line: what they mean, and what is told of one that is none."""

from __future__ import annotations

import pytest

from search.config.goal import parse_budgets
from spaces.errors import SecateursError


@pytest.mark.parametrize(
    ("text", "name", "limits"),
    [
        ("macs<=30%", "macs-30pct", {"macs": "<= 30%"}),
        (" macs <= 12.5 % ", "macs-12.5pct", {"macs": "<= 12.5%"}),
        ("parameters<=1e6", "parameters-1000000", {"parameters": "<= 1000000.0"}),
        ("macs<=1e18", "macs-1e18", {"macs": "<= 1e+18"}),
        ("macs<=30%,size_bytes<=50%", "macs-30pct-size_bytes-50pct", {"macs": "<= 30%", "size_bytes": "<= 50%"}),
    ],
)
def test_a_budget_is_a_limit_on_every_metric_that_it_names(text: str, name: str, limits: dict[str, str]) -> None:
    (budget,) = parse_budgets([text])
    assert budget.name == name
    assert {metric: str(limit) for metric, limit in budget.limits.items()} == limits


def test_a_sweep_is_evenly_spaced_with_both_ends_and_each_budget_is_taken_once() -> None:
    names = [budget.name for budget in parse_budgets(["macs<=20%"], "macs=10%..60%:6")]
    assert names == [f"macs-{share}pct" for share in (20, 10, 30, 40, 50, 60)]
    assert [budget.name for budget in parse_budgets([], "macs = 4e6 .. 1e6 : 3")] == [
        "macs-4000000",
        "macs-2500000",
        "macs-1000000",
    ]


@pytest.mark.parametrize(
    ("texts", "sweep", "told"),
    [
        ([], None, "got neither"),
        (["macs"], None, "a metric and its limit"),
        (["macs 30%"], None, "a metric and its limit"),
        (["macs<30%"], None, '"<= 30%"'),
        (["macs>=30%"], None, "from above"),
        (["macs<=130%"], None, "below 100%"),
        (["macs<=0"], None, "above 0"),
        (["macs<=30%,"], None, "got ''"),
        (["macs<=30%,macs<=20%"], None, "one limit on macs"),
        ([], "macs", "FIRST..LAST:NUMBER"),
        ([], "macs=10%..60%", "FIRST..LAST:NUMBER"),
        ([], "macs=10%..60:6", "both ends"),
        ([], "macs=10%..10%:6", "two different ends"),
        ([], "macs=10%..60%:1", "2 to 100"),
        ([], "macs=10%..x%:3", "of the reference"),
    ],
)
def test_what_is_no_budget_is_told(texts: list[str], sweep: str | None, told: str) -> None:
    with pytest.raises(SecateursError) as error:
        parse_budgets(texts, sweep)
    assert told in str(error.value)
