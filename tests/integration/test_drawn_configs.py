"""What ``check`` accepts, ``run`` brings to its end: configurations drawn at random, of every kind and option.

``SECATEURS_DRAWN`` sets how many accepted ones are run (30), ``SECATEURS_DRAWN_SEED`` draws others.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.config.document import to_yaml
from search.config.loading import Config, load
from search.export import load as load_best
from search.pipeline import run
from search.pipeline.rehearsal import rehearse
from search.stages import STAGES
from spaces.errors import SecateursError
from tests.integration.drawn_configs import draw, undrawn
from tests.integration.tiny_pipeline import read_report

COUNT = int(os.environ.get("SECATEURS_DRAWN", "30"))
FIRST = int(os.environ.get("SECATEURS_DRAWN_SEED", "0"))
STAGE = rf"[0-9]+-({'|'.join(STAGES)})"
PLACE = re.compile(rf"\b{STAGE}\b|line [0-9]+|\b(task|data|execution|stages)\b")


def accepted(folder: Path, seed: int) -> Config | None:
    """Return the configuration of a seed, None where it is refused, which must be with a place and a reason."""
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(to_yaml(draw(seed)))
    try:
        config = load(path)
        for _ in rehearse(config):
            pass
    except SecateursError as error:
        refusal = str(error).replace(str(path), "")
    else:
        return config
    assert PLACE.search(refusal), f"{seed}: {refusal}"
    assert len(refusal) > 30
    return None


def unfinished(value: Any, place: str = "report") -> Iterator[str]:
    """Yield the places of numbers that are none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from unfinished(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unfinished(inner, f"{place}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield place


def complaint(config: Config, folder: Path) -> str:
    """Run what was accepted, and return what is wrong with that; nothing is the empty text."""
    try:
        run(config, folder)
        report = read_report(folder)
        if wrong := list(unfinished(report)):
            return f"report.json has no number at {wrong}"
        if (folder / "best").exists():
            load_best(folder, trust=["tests.integration"])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if (folder / "report.html").exists() else "there is no report.html"


def test_every_option_is_drawn() -> None:
    assert undrawn() == []


def test_a_seed_draws_one_configuration() -> None:
    assert draw(7) == draw(7) != draw(8)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_check_accepts_runs_to_its_end(tmp_path: Path) -> None:
    complaints: dict[int, str] = {}
    ran, seed = 0, FIRST
    while ran < COUNT:
        folder = tmp_path / str(seed)
        if (config := accepted(folder, seed)) is not None:
            ran += 1
            if text := complaint(config, folder / "run"):
                complaints[seed] = text
            shutil.rmtree(folder / "run", ignore_errors=True)
        seed += 1
    print(f"{ran} of {seed - FIRST} drawn configurations were accepted")
    assert complaints == {}
    assert ran >= 0.2 * (seed - FIRST), "most of what is drawn is refused, so that little of it is tried"
