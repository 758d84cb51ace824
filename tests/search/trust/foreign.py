"""Run folders as somebody else may have made them: whole ones, and one thing in them changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search.run.best import Best
from search.run.network import Network
from spaces.channel_mask import ChannelMask
from spaces.networks import digits_cnn

ORIGIN = {"model": {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 4}, "checkpoint": None, "init_seed": 0}}


@cache
def _pruned() -> Network:
    torch.manual_seed(0)
    model = digits_cnn(width=4).eval()
    space = ChannelMask(model, torch.zeros(1, 1, 8, 8))
    candidate = space.cheapest()
    smaller = space.realize(model, candidate).eval()
    return Network(smaller, (space.transformation(candidate),))


def pruned(folder: Path) -> Path:
    """Return the folder of a run whose network lost channels."""
    Best(folder / "best", ORIGIN, {"run": "r", "seed": 0}).replace(_pruned(), {})
    return folder


def saved(folder: Path, origin: dict[str, Any], model: nn.Module) -> Path:
    """Return the folder of a run that ended with ``model`` as its origin made it."""
    Best(folder / "best", origin, {}).replace(Network(model.eval()), {})
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the data of a folder's architecture.json."""
    path = folder / "best" / "architecture.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return folder
