"""Merging in programs exported by torch.export: they stay exported programs, dynamic sizes included."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from spaces.fusion.modules import fuse_graph
from spaces.fusion.program import fuse_program
from tests.spaces.fusion.activation_zoo import FUNCTIONAL, INPUTS, Code, Untraceable, layers, slopes

# Under torch.export, an in-place result read elsewhere and a module's integer tensor are what they are in eager code.
NAMES = [name for name in FUNCTIONAL if name != "computed bound"]


def export(model: nn.Module) -> ExportedProgram:
    return torch.export.export(model.eval(), (INPUTS,), dynamic_shapes=({0: Dim("batch")},), strict=False)


def answers(program: ExportedProgram, samples: int = 4) -> tuple[Any, torch.Tensor]:
    inputs = INPUTS[:samples].clone()
    with torch.no_grad():
        return program.module()(inputs), inputs


@pytest.mark.parametrize("name", NAMES)
def test_code(name: str) -> None:
    code, removed = FUNCTIONAL[name]
    torch.manual_seed(0)
    wrapped = Code(code)
    program = export(wrapped)
    fused, report = fuse_program(program)
    assert report.removed == removed, report.lines()
    for samples in (4, 2):
        before, after = answers(program, samples), answers(fused, samples)
        tolerance = 0.0 if report.exact else 1e-6
        torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance)
    assert fuse_program(fused)[1].merges == ()
    graph, again = fuse_graph(program.module())  # type: ignore[arg-type]
    assert again.removed == removed
    torch.testing.assert_close(graph(INPUTS.clone()), answers(program)[0], rtol=1e-6, atol=1e-6)


def test_a_merged_prelu_has_slopes_of_its_own_and_is_saved() -> None:
    torch.manual_seed(0)
    shared = slopes(0.5, -0.5, 2.0, 0.0)
    program = export(nn.Sequential(layers(shared, nn.LeakyReLU(0.5)), nn.Conv2d(2, 4, 1), shared))
    fused, report = fuse_program(program)
    assert report.removed == 1
    assert program.state_dict.keys() < fused.state_dict.keys()
    added = fused.state_dict[next(iter(fused.state_dict.keys() - program.state_dict.keys()))]
    assert added.tolist() == [0.25, -0.5, 1.0, 0.0]
    buffer = io.BytesIO()
    torch.export.save(fused, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.export.load(buffer).module()(INPUTS), answers(program)[0])


def test_the_dtype_stands_in_the_graph() -> None:
    pair = layers(nn.LeakyReLU(0.001), nn.LeakyReLU(0.001)).half()
    program = torch.export.export(pair, (INPUTS.half(),))
    assert fuse_program(program)[1].left[0].reason.endswith("normal numbers of float16")


def test_where_an_activation_stands_is_told() -> None:
    _, report = fuse_program(export(Untraceable(nn.ReLU(), nn.ReLU6(), functional=True)))
    assert [merge.where for merge in report.merges] == ["features.1"]
    assert report.merges[0].result == "Clip 0 to 6"
