"""A target on the bits per weight, on average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search.config import load
from search.pipeline import run
from search.pipeline.rehearsal import rehearse
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.errors import SecateursError
from spaces.networks import digits_cnn
from spaces.quantization.cost import average_weight_bits
from tests.integration.stage_pieces import HEAD
from tests.integration.tiny_pipeline import write_config

BITS = "{name: bit_width, weight_bits: [2, 4, 8], activation_bits: [8]}"


def config(space: str, limit: str, algorithm: str = "{name: random, evaluations: 6}", omega: str = "") -> str:
    return f"""{HEAD}  - search:
      space: {space}
      algorithm: {algorithm}
      evaluate: [{{accuracy: {{batch_norm_batches: 1}}}}, {omega}cost]
      objectives: {{top1: maximize}}
      target: {{weight_bits: "{limit}"}}
      batch: 4
"""


def test_what_is_predicted_is_what_the_network_has() -> None:
    model = digits_cnn(width=4).eval()
    space = BitWidth(model, torch.zeros(1, 1, 8, 8), BitWidthSettings(weight_bits=(2, 3, 8)))
    options = {name: domain.options for name, domain in space.domains.items()}
    mixed = Candidate({name: choices[place % len(choices)] for place, (name, choices) in enumerate(options.items())})
    counted = {site.name: site.weights for site in space.found.layers}
    bits = space.layer_bits(mixed.values)
    expected = sum(count * bits[name][0] for name, count in counted.items()) / sum(counted.values())
    assert space.costs(mixed)["weight_bits"] == pytest.approx(expected)
    assert average_weight_bits(space.realize(model, mixed)) == pytest.approx(expected)
    assert average_weight_bits(model) == 32.0


def test_the_target_is_measured_without_an_option_and_out_of_reach_it_is_refused(tmp_path: Path) -> None:
    loaded = load(write_config(tmp_path, config(BITS, "<= 5")))
    assert loaded.canonical()["stages"][-1]["search"]["evaluate"][1]["weight_bits"] is True
    assert "weight_bits <= 5.0 is within reach, down to " in "\n".join(rehearse(loaded))
    with pytest.raises(SecateursError, match=r"target\.weight_bits: <= 1\.5 is 1\.5, and the smallest network"):
        list(rehearse(load(write_config(tmp_path, config(BITS, "<= 1.5")))))
    with pytest.raises(SecateursError, match=r"nothing in this space lowers weight_bits"):
        list(rehearse(load(write_config(tmp_path, config("channel_mask", "<= 4")))))


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("algorithm", "omega"), [("{name: random, evaluations: 6}", ""), ("integer_program", "{omega: {sensitivity: fisher}}, ")]
)
def test_it_is_kept_and_stands_in_the_report(tmp_path: Path, algorithm: str, omega: str) -> None:
    report = run(load(write_config(tmp_path, config(BITS, "<= 16%", algorithm, omega))), tmp_path / "run")
    value = report["result"]["weight_bits"]
    assert report["targets"]["weight_bits"] == {"text": "<= 16%", "limit": pytest.approx(5.12), "value": value, "met": True}
    assert report["reference"]["weight_bits"] == 32.0
    assert report["result"]["weight_bits"] <= 5.12
