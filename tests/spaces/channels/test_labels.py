from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from spaces.channels.labels.atoms import ChannelAtoms, compact


@pytest.mark.parametrize("seed", range(4))
def test_representatives_are_the_smallest_members_of_connected_atoms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 60, (2, 45))
    atoms = ChannelAtoms()
    atoms.new(59)
    for start in range(0, 45, 9):
        atoms.unite(*torch.from_numpy(pairs[:, start : start + 9]))
    expected = np.arange(60)
    for _ in range(60):
        for one, other in pairs.T:
            if one and other:
                expected[[one, other]] = expected[[one, other]].min()
    assert atoms.roots(torch.arange(60)).tolist() == expected.tolist()


def test_the_first_reason_of_any_member_is_the_reason_of_all() -> None:
    atoms = ChannelAtoms()
    one, other, third = atoms.new(4), atoms.new(4), atoms.new(4)
    atoms.freeze(other[:2], "first")
    atoms.freeze(one, "second")
    atoms.unite(one.reshape(1, 4, 1).expand(2, 4, 8), other.reshape(1, 4, 1).expand(2, 4, 8))
    assert [atoms.reason(int(atom)) for atom in other] == ["first", "first", "second", "second"]
    assert atoms.reason(int(third[0])) is None
    atoms.unite(third[:1], one[:1])
    assert atoms.reason(int(third[0])) == "first"
    assert atoms.reason(0) == "no channel"


def test_compact_labels_keep_the_dimensions_that_they_change_along() -> None:
    labels = torch.arange(1, 5).reshape(1, 4, 1).expand(3, 4, 5)
    assert compact(labels).shape == compact(labels.contiguous()).shape == (1, 4, 1)


@pytest.mark.slow
def test_the_first_labelled_pass_of_a_process_does_without_the_compiler() -> None:
    code = (
        "import sys, torch\nfrom torch import nn\nfrom spaces.channels.check import find_checked_groups\n"
        "find_checked_groups(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), torch.randn(1, 3, 8, 8))\n"
        "assert not {'sympy', 'torch._dynamo'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
