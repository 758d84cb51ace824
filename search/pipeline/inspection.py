"""Tables for ``inspect`` and ``list``: the open and frozen parts of a network, its costs; the registered classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from search.config.registries import ALGORITHM, DATASET, EVALUATOR, EXECUTOR, SPACE, SPARSIFIER, STAGE, TRACKER
from search.output.numbers import format_bytes, format_count, format_percent
from search.stages.base import placed_stages
from search.stages.search.goals import build_space
from spaces.channels.units import CHANNELS
from spaces.registry import resolve

if TYPE_CHECKING:
    from search.config.block import Block
    from search.config.loading import Config
    from spaces.base import SearchSpace
    from spaces.channels.groups import Group
    from spaces.frozen import Frozen

REGISTRIES = (SPACE, SPARSIFIER, EVALUATOR, DATASET, ALGORITHM, EXECUTOR, STAGE, TRACKER)


def _first_space(config: Config) -> tuple[str, Block]:
    """Return step and space of the first stage that searches one; channel masks where none does."""
    for placed in placed_stages(config):
        if placed.stage.space is not None:
            return placed.step, placed.stage.space
    return "channel_mask", SPACE.parse("channel_mask")


def examine(config: Config) -> dict[str, Any]:
    """Return, as JSON data, the open and frozen channel groups of the configured network, with reasons, and its costs.

    A space over bits has its layers and additions for groups; one over both has them as ``bits`` beside the groups.

    Raises:
        SecateursError: The model or its data cannot be had, its forward pass fails, or nothing in it is open.
    """
    from torch import Tensor

    from evaluators.cost import count_cache_bytes, count_costs, count_module_macs, count_peak_activation_bytes
    from spaces.cloning.plain_network import without_wrappers
    from spaces.execution.batch import count_samples, describe
    from spaces.importance.second_order import unread_groups

    task = config.build_task()
    model = without_wrappers(task.reference_model()).eval()
    stage, block = _first_space(config)
    space = build_space(block, model, task)
    channels, bits = space.channels, bit_places(space)
    rows = bits if channels is None else [{**_row(group), "unit": group.unit} for group in channels.groups]
    inputs = task.traced_inputs()
    cache = count_cache_bytes(model, inputs, task.forward)
    return {
        "name": config.name,
        "model": type(model).__name__,
        "stage": stage,
        "space": block.name,
        "length": task.cost_length,
        "input_shape": list(inputs.shape) if isinstance(inputs, Tensor) else describe(inputs),
        "groups": rows,
        "bits": [] if channels is None else bits,
        "removable": [_row(part) for part in space.removable],
        "frozen": [{**_row(part), "reason": part.reason} for part in space.frozen],
        "channels": sum(row["size"] for row in rows),
        "by_norm": [] if channels is None else list(unread_groups(model, channels)),
        "open_macs_share": space.open_share() if channels is not None or space.removable else None,
        "module_macs": {
            name: macs // count_samples(inputs) for name, macs in count_module_macs(model, inputs, task.forward).items()
        },
        "costs": {
            **count_costs(model, inputs, task.forward),
            "peak_activation_bytes": count_peak_activation_bytes(model, inputs, task.forward),
            **({} if cache is None else {"kv_cache_bytes_per_token": cache}),
        },
    }


def bit_places(space: SearchSpace[Any]) -> list[dict[str, Any]]:
    """Return a row per layer and addition whose values are quantized, with the bits that the space allows."""
    rows: dict[str, dict[str, Any]] = {}
    for place in space.quantizers:
        share = place.macs / max(1.0, space.network_macs)
        row = rows.setdefault(place.layer, {"name": place.layer, "size": 0, "members": [], "macs_share": share})
        row["size"] += place.elements if place.kind == "weight" else 0
        row["members"].append(f"{place.kind}: {'/'.join(map(str, space.domains[place.decision].choices))} bits")
    return list(rows.values())


def _row(group: Group | Frozen) -> dict[str, Any]:
    return {"name": group.name, "size": group.size, "members": list(group.members), "macs_share": group.macs_share}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the data that :func:`examine` returns as tables."""
    shape = found["input_shape"] if isinstance(found["input_shape"], str) else "x".join(map(str, found["input_shape"]))
    title = f"{found['name']}: {found['model']} on {shape}, open channel groups"
    console.print(_table(title, ("group", "channels", "MACs touched", "members"), found["groups"]))
    stated = "" if found["length"] is None else f" at {found['length']:,} tokens"
    if found["bits"]:
        columns = ("layer", "weights", "MACs", "may have")
        console.print(_table("layers and additions with bits to choose", columns, found["bits"]))
    if found["removable"]:
        columns = ("branch or block", "parameters", "MACs", "modules that leave with it")
        console.print(_table("what may leave whole", columns, found["removable"]))
    if found["frozen"]:
        console.print(_table("frozen", ("group", "channels", "MACs touched", "reason"), found["frozen"]))
    costs = found["costs"]
    if found["module_macs"]:
        console.print(_macs_table(found["module_macs"], shape))
    totals = Table(title="the network as it is", title_justify="left")
    totals.add_column("what")
    totals.add_column("value", justify="right")
    totals.add_column("exact", justify="right")
    for name, words, unit in (
        ("macs", f"MACs{stated}", format_count),
        ("parameters", "parameters", format_count),
        ("size_bytes", "bytes", format_bytes),
        ("peak_activation_bytes", "peak activations", format_bytes),
        ("kv_cache_bytes_per_token", "key-value cache per token", format_bytes),
    ):
        if name in costs:
            totals.add_row(words, unit(costs[name]), f"{costs[name]:,.0f}")
    totals.add_row("open groups", str(len(found["groups"])), f"{found['channels']:,} channels")
    if found["by_norm"]:
        totals.add_row(
            "groups in the order of norms with importance second_order", str(len(found["by_norm"])), ", ".join(found["by_norm"])
        )
    if found["open_macs_share"] is not None:
        totals.add_row("MACs that can go", format_percent(found["open_macs_share"]), "")
    console.print(totals)


def _table(title: str, columns: tuple[str, str, str, str], rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table with a row per group: name, size, share of the MACs, and members or the reason for freezing."""
    table = Table(title=title, title_justify="left")
    name, *numbers, words = columns
    table.add_column(name, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right")
    table.add_column(words, overflow="fold", ratio=1)
    for row in rows:
        table.add_row(
            row["name"],
            str(row["size"]) if row.get("unit", CHANNELS) == CHANNELS else f"{row['size']} {row['unit']}",
            format_percent(row["macs_share"]),
            row.get("reason") or ", ".join(row["members"]),
        )
    return table


def _macs_table(macs: Mapping[str, int], shape: str) -> Table:
    """Return a table of the multiply-accumulates of every module, on inputs of ``shape``, in the order of their calls."""
    total = max(1, sum(macs.values()))
    table = Table(title=f"MACs by module, for inputs of {shape}", title_justify="left")
    table.add_column("module", overflow="fold")
    table.add_column("MACs", justify="right")
    table.add_column("share", justify="right")
    for name, own in macs.items():
        table.add_row(name or "the network itself", format_count(own), format_percent(own / total))
    return table


def registered() -> dict[str, dict[str, str]]:
    """Return the first line of the docstring of every registered class, by kind and name."""
    found: dict[str, dict[str, str]] = {}
    for registry in REGISTRIES:
        found[registry.kind] = {name: _first_line(resolve(path)) for name, path in registry.members.items()}
    return found


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("``", "`")


def show_registered(found: Mapping[str, Mapping[str, str]], console: Console) -> None:
    """Print the data that :func:`registered` returns as a table."""
    table = Table(show_lines=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it does", ratio=1, overflow="fold")
    for kind, entries in found.items():
        for index, (name, words) in enumerate(entries.items()):
            table.add_row(kind if index == 0 else "", name, words, end_section=index + 1 == len(entries))
    console.print(table)
