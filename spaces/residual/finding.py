"""Finding the branches, or the blocks of chains, that may leave a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from spaces.execution.batch import Nested
from spaces.execution.forward import Forward
from spaces.layers.macs import MacsCounter
from spaces.residual.flow import Addition, Call, record_flow
from spaces.residual.stub import Path
from spaces.residual.units import MOVES, FlowGraph, Unit


def flow_graph(model: nn.Module, inputs: Nested, forward: Forward) -> FlowGraph:
    """Return the flow of ``model`` on one batch of a single sample, with its multiply-accumulates by module."""
    counter = MacsCounter()
    with counter.counting(model):
        flow = record_flow(model, inputs, forward)
    return FlowGraph(model, flow, counter.macs)


def branches(graph: FlowGraph) -> list[Unit]:
    """Return the branches, in graph order: what lies between a value and the addition to that value, and costs something.

    What a branch reads beside that value stays, as long as something else needs it. Of a sum of several branches, such as
    attention and MLP side by side, each is one.
    """
    found: list[Unit] = []
    streams: dict[int, frozenset[int]] = {}
    seen = set[frozenset[str]]()
    for addition in graph.flow.additions:
        for place in (1, 0):
            # Two additions of the same modules, as those inside an activation in between, are one.
            removed = {frozenset(graph.removal((one,)).stubs): one for one in _side_by_side(graph, addition, place, streams)}
            units = {stubs: unit for stubs, unit in removed.items() if stubs not in seen}
            if units:
                streams[addition.sum] = _stream(graph, addition.terms[1 - place], streams)
                found.extend(units.values())
                seen |= units.keys()
                break
    return _named(graph, found)


def blocks(graph: FlowGraph) -> list[Unit]:
    """Return the blocks, in graph order: elements of a chain whose input and output have one shape.

    A chain is in a Sequential or ModuleList. Its elements are of one class. One with no parts of its own, such as a single
    convolution, is no block, nor is one that holds other blocks, such as a stage.
    """
    found: dict[str, Unit] = {}
    for name, part in graph.parts.items():
        if part.chain or part.container:
            names = [f"{name}.{one}" if name else one for one in part.parts]
            for before, own, after in zip([None, *names], names, [*names[1:], None], strict=False):
                chained = _follows(graph, before, own) or _follows(graph, own, after)
                unit = _block(graph, own) if chained and graph.parts[own].parts else None
                if unit is not None:
                    found[own] = unit
    return _named(
        graph, [unit for name, unit in found.items() if not any(_in(other, name) for other in found if other != name)]
    )


def _side_by_side(graph: FlowGraph, addition: Addition, place: int, streams: Mapping[int, frozenset[int]]) -> list[Unit]:
    """Return the branches that the term at ``place`` of an addition is the sum of; none where it is no branch."""
    branch, value = addition.terms[place], addition.terms[1 - place]
    begins = {_origin(graph, one) for one in _stream(graph, value, streams)}
    if branch == value or not _made_of(graph, branch, begins):
        return []
    whole = _costing(graph, Unit("", frozenset({(branch, addition.sum)}), {addition.sum: value}, ((addition.ordinal, place),)))
    inner = next((one for one in graph.flow.additions if one.sum == branch), None)
    if whole is None or inner is None or graph.readers[branch] != [addition.sum]:
        return [] if whole is None else [whole]
    parts = [
        _costing(graph, Unit("", frozenset({(term, branch)}), {}, ((inner.ordinal, at),)))
        for at, term in enumerate(inner.terms)
    ]
    apart = [one for one in parts if one is not None]
    made = all(_made_of(graph, term, begins) for term in inner.terms)
    return apart if len(apart) == len(parts) and made else [whole]


def _stream(graph: FlowGraph, value: int, streams: Mapping[int, frozenset[int]]) -> frozenset[int]:
    """Return ``value`` and the values that it is the sum of, each with a branch."""
    return frozenset({value}) | streams.get(value, frozenset())


def _made_of(graph: FlowGraph, number: int, others: set[int]) -> bool:
    """Return True if the value ``number`` is made of one of ``others``."""
    first, seen, waiting = min(others), set[int](), [number]
    while waiting:
        one = waiting.pop()
        if one in others:
            return True
        for read in graph.flow.nodes[one].reads:
            if read >= first and read not in seen:
                seen.add(read)
                waiting.append(read)
    return False


def _origin(graph: FlowGraph, number: int) -> int:
    """Return the value whose elements ``number`` holds."""
    node = graph.flow.nodes[number]
    while node.operator in MOVES and len(node.reads) == 1:
        number = node.reads[0]
        node = graph.flow.nodes[number]
    return number


def _block(graph: FlowGraph, name: str) -> Unit | None:
    """Return the block that is a module; None where it is none."""
    calls = graph.calls.get(name, [])
    if len(calls) != 1:
        return None
    call = calls[0]
    output, given = _main_output(call), _main_input(call)
    if output is None or given is None or call.shapes[output] != given[1][1] or output == given[1][0]:
        return None
    inside = graph.inside.get(name, set())
    outside = [(output, reader) for reader in graph.readers[output] if reader not in inside]
    unit = Unit("", frozenset(outside), {output: given[1][0]}, skipped={name: given[0]})
    if not inside <= graph.dead((unit,)):
        return None
    return _costing(graph, unit)


def _costing(graph: FlowGraph, unit: Unit) -> Unit | None:
    """Return a unit with the share of the multiply-accumulates that leave with it; None where none do."""
    removal = graph.removal((unit,))
    saved = graph.total - graph.left_macs(removal, (unit,))
    return replace(unit, macs_share=saved / graph.total) if removal.stubs and saved > 0 else None


def _follows(graph: FlowGraph, first: str | None, second: str | None) -> bool:
    """Return True if a module is called with the output of another of its class."""
    if first is None or second is None or first not in graph.calls or second not in graph.calls:
        return False
    output = _main_output(graph.calls[first][0])
    given = graph.calls[second][0].given.values()
    return graph.parts[first].kind == graph.parts[second].kind and any(value == output for value, _ in given)


def _main_output(call: Call) -> int | None:
    """Return the number of the first tensor that a call returned."""
    return next(iter(call.shapes), None)


def _main_input(call: Call) -> tuple[Path, tuple[int, tuple[int, ...]]] | None:
    """Return the first tensor that a module was called with: the argument, the number of the value, and the shape."""
    return next(iter(call.given.items()), None)


def _named(graph: FlowGraph, units: Sequence[Unit]) -> list[Unit]:
    """Return units with names: that of the module which holds all of a unit and of no other, else of its costliest part."""
    parts = [list(graph.removal((unit,)).stubs) for unit in units]
    found: list[Unit] = []
    taken: dict[str, int] = {}
    for place, (unit, own) in enumerate(zip(units, parts, strict=True)):
        others = [name for at, names in enumerate(parts) if at != place for name in names]
        name = next((one for one in _holders(own) if not any(_in(other, one) for other in others)), "")
        name = name or max(own, key=lambda one: sum(macs for part, macs in graph.macs.items() if _in(part, one)))
        taken[name] = taken.get(name, 0) + 1
        found.append(replace(unit, name=name if taken[name] == 1 else f"{name}#{taken[name]}"))
    return found


def _holders(names: Sequence[str]) -> Iterator[str]:
    """Yield the innermost module that holds all of ``names``, where it is not the whole network."""
    common: list[str] = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if common:
        yield ".".join(common)


def _in(name: str, holder: str) -> bool:
    return name == holder or name.startswith(f"{holder}.")
