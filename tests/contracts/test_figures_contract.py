"""Every registered figure keeps the contract, by the kit that is shipped."""

from __future__ import annotations

import pytest

from search.report.figures import FIGURES
from search.report.figures.testing import check_figure
from spaces.registry import resolve
from tests.search.report.report_sample import full_sample


@pytest.mark.parametrize("name", FIGURES)
def test_it_keeps_the_contract(name: str) -> None:
    figure = resolve(FIGURES[name])
    assert figure.name == name
    check_figure(figure, [{"name": "bare", "seed": 0}, full_sample()])
