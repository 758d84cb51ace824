"""Limits on scores: what they mean, and what is told of one that can't be sought."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.config import load
from search.config.block import parse_score_limit
from search.config.document import ConfigError
from tests.integration.tiny_pipeline import write_config

CONFIG = """\
name: tiny
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - search:
      space: channel_mask
      algorithm: integer_program
      evaluate: [accuracy, cost]
      objectives: {top1: maximize}
      target: {top1: ">= -1.0 points"}
      baselines: [uniform]
"""


@pytest.mark.parametrize(
    ("text", "reference", "bound"),
    [
        (">= -1.0 points", 0.9, 0.89),
        (">=-1points", 0.9, 0.89),
        (">= +2 points", 0.9, 0.92),
        (">= -0.01", 0.9, 0.89),
        (">= -1%", 0.9, 0.891),
        (">= -10%", -2.0, -2.2),
        (">= 0.85", 0.9, 0.85),
        (">= 95%", 0.8, 0.76),
        ("<= +0.02", 0.3, 0.32),
        ("<= +5%", 0.3, 0.315),
    ],
)
def test_a_limit_is_a_change_where_it_has_a_sign_and_else_a_value(text: str, reference: float, bound: float) -> None:
    limit = parse_score_limit(text)
    assert limit is not None
    assert limit.absolute(reference) == pytest.approx(bound)
    assert parse_score_limit(str(limit)) == limit
    assert limit.kept(bound, bound)
    assert limit.kept(bound + (0.001 if limit.lower else -0.001), bound)
    assert not limit.kept(bound - (0.001 if limit.lower else -0.001), bound)


@pytest.mark.parametrize("text", ["<= 40%", "<= 1200000", "40%", "<= -1", 0.4, True, ">=", ">= x", "> 1"])
def test_other_texts_are_no_limits_on_scores(text: object) -> None:
    assert parse_score_limit(text) is None


def test_it_is_read_and_written(tmp_path: Path) -> None:
    config = load(write_config(tmp_path, CONFIG))
    assert config.canonical()["stages"][0]["search"]["target"] == {"top1": ">= -1 points"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('">= -1.0 points"', '">= 1.0 points"', "expected a sign"),
        ('{top1: ">= -1.0 points"}', '{top1: "<= +1 points"}', "better the other way"),
        ('{top1: ">= -1.0 points"}', '{macs: ">= 40%"}', 'a limit from above, written "<= 40%"'),
        ('{top1: ">= -1.0 points"}', '{top1: ">= -1 points", loss: "<= +0.1"}', "one limit on a score"),
        ('{top1: ">= -1.0 points"}', '{top8x: ">= -1 points"}', "no evaluator measures 'top8x'"),
        ("integer_program", "genetic", "algorithm: integer_program"),
        ("[uniform]", "[random]", "remove it from baselines"),
        ("baselines: [uniform]", "finalists: {steps: [1], training: {epochs: 2}}", "nothing to halve"),
        ("baselines: [uniform]", "training: {epochs: 2}", "no search.training"),
    ],
)
def test_what_does_not_go_with_it_is_told(old: str, new: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(write_config(tmp_path, CONFIG.replace(old, new)))
    assert told in str(error.value)
