"""Find, cut, compare and count every network of the zoo.

    python -m tests.zoo.run RESULTS [--only timm/resnet] [--table]

A line of JSON per network is added to RESULTS; what stands there already is not tried again. Each is tried in a process of
its own. Needs `uv sync --group zoo`. The exit code is 1 if a network has a complaint.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.check import randomize_batch_norm
from spaces.cloning.plain_network import plain_network
from spaces.errors import UnsupportedModelError
from tests.results_file import known
from tests.zoo.networks import NAMES, Made, detected, make

SECONDS = 300
"""Bound of a trial, of wall-clock time."""


def counted(model: nn.Module, made: Made) -> float:
    """Return the multiply-accumulates that PyTorch's own counter finds in a forward pass on one sample."""
    counter, frozen = FlopCounterMode(display=False), copy.deepcopy(model).requires_grad_(False)
    # oneDNN's recurrent layer is one operator, which the counter does not know; without it they are matrix products.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), counter:
        made[2](frozen, made[1])
    return counter.get_total_flops() / 2


def shapes(outputs: Any) -> list[list[int]]:
    """Return the shapes of all tensors in an output, in order."""
    if isinstance(outputs, torch.Tensor):
        return [list(outputs.shape)]
    if isinstance(outputs, dict):
        return [shape for value in outputs.values() for shape in shapes(value)]
    return [shape for value in outputs for shape in shapes(value)] if isinstance(outputs, list | tuple) else []


def tried(name: str) -> dict[str, Any]:
    """Return what came of a network, as a row of the table; ``complaint`` where something is wrong."""
    model, inputs, forward = make(name)
    # As a run takes a network in: computed weights are stored.
    model = plain_network(model)[0]
    made = model, inputs, forward
    row: dict[str, Any] = {"network": name, "macs": counted(model, made), "complaint": ""}
    settings, complaints = ChannelMaskSettings(compensate=False, max_ratio=1.0), []
    before = {key: value.clone() for key, value in model.state_dict().items()}
    began = time.process_time()
    try:
        space = ChannelMask(model, inputs, settings, forward=forward)
    except UnsupportedModelError as error:
        return {**row, "seconds": round(time.process_time() - began, 2), "open": 0.0, "reasons": [str(error)[:400]]}
    row["seconds"] = round(time.process_time() - began, 2)
    if any(not torch.equal(value, before[key]) for key, value in model.state_dict().items()):
        complaints.append("the given network was changed")
    groups = space.groups
    row |= {"groups": len(groups.groups), "frozen": len(groups.frozen), "predicted": space.network_macs}
    row["open"] = round(space.open_share(), 4)
    row["reasons"] = sorted({group.reason for group in groups.frozen})[:8]
    if not all(row["reasons"]):
        complaints.append("a frozen group has no reason")
    cheapest = space.cheapest()
    randomize_batch_norm(model, inputs, forward)
    row["left"] = round(space.costs(cheapest)["macs"] / max(space.network_macs, 1.0), 4)
    small = space.realize(model, cheapest)
    with torch.no_grad():
        same = shapes(forward(small, inputs)) == shapes(forward(model, inputs))
    row["cut"], row["cut_predicted"] = counted(small, made), space.costs(cheapest)["macs"]
    pairs = [("dense", "predicted", "macs")]
    if same:
        pairs.append(("cut", "cut_predicted", "cut"))
    elif forward is not detected:  # How many boxes a detector finds, and regions it looks at, depends on its weights.
        complaints.append("the outputs' shapes changed")
    for what, predicted, found in pairs:
        if abs(row[predicted] - row[found]) > 1e-3 * max(row[found], 1.0):
            complaints.append(f"MACs {what}: predicted {row[predicted]:.6g}, counted {row[found]:.6g}")
    row["error"] = space.check(model, space.sample(np.random.default_rng(7)))
    row["complaint"] = "; ".join(complaints)
    return row


def in_a_process(name: str) -> dict[str, Any]:
    """Return what :func:`tried` returns, from a process of its own with a bound on its time."""
    with tempfile.TemporaryDirectory() as folder:
        answer, began = Path(folder) / "answer.json", time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                warnings.simplefilter("ignore")
                answer.write_text(json.dumps(tried(name)))
            except BaseException as error:
                told = f"{type(error).__name__}: {error}"[:600]
                trace = "".join(traceback.format_exception(error))[-1500:]
                answer.write_text(json.dumps({"network": name, "complaint": told, "trace": trace}))
            finally:
                os._exit(0)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - began > SECONDS:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        lost = {"network": name, "complaint": f"no answer within {SECONDS} s, or killed for its memory"}
        found: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else lost
        return {**found, "wall": round(time.monotonic() - began, 2)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| network | can go | MACs left in the cheapest | what is fixed | CPU s |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        if "open" not in row:
            lines.append(f"| {row['network']} | - | - | {row['complaint'][:120]} | - |")
            continue
        reasons = "; ".join(re.sub(r"\s+", " ", reason)[:90] for reason in row["reasons"][:2]).replace("|", "/")
        left = f"{row['left']:.1%}" if "left" in row else "-"
        lines.append(f"| {row['network']} | {row['open']:.1%} | {left} | {reasons} | {row['seconds']} |")
    return "\n".join(lines)


def main() -> None:
    """Try what is not tried yet; exit with 1 if there are complaints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", help="Try this network alone, and show what came of it.")
    parser.add_argument("--table", action="store_true", help="Print the results so far as a table in Markdown.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for library in ("torchvision", "transformers", "timm"):
        importlib.import_module(library)
    if given.only is not None:
        print(json.dumps(in_a_process(given.only), indent=1))
        return
    done = known(given.results, "network")
    if given.table:
        print(table([done[name] for name in NAMES if name in done]))
        return
    began, new = time.monotonic(), 0
    missing = [name for name in NAMES if name not in done]
    with given.results.open("a") as file:
        for count, name in enumerate(missing, 1):
            row = done[name] = in_a_process(name)
            file.write(json.dumps(row) + "\n")
            file.flush()
            new += 1
            left = (time.monotonic() - began) / new * (len(missing) - count)
            mark = f"COMPLAINT: {row['complaint'][:160]}" if row["complaint"] else f"{row.get('open', 0.0):.1%} can go"
            print(f"{count}/{len(missing)} {name}: {mark}, {row['wall']} s, ETA {left / 60:.0f} min", flush=True)
    bad = [name for name in NAMES if done[name]["complaint"]]
    print(f"{len(NAMES) - len(bad)} of {len(NAMES)} without complaint")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
