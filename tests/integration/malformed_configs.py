"""Malformed configurations drawn at random: every shipped one, with one or two things in it made wrong, as data or as text."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from search.config.document import read_document, to_yaml
from tests.paths import CONFIGS
from tests.search.config.mutations import Place, places, renamed, replaced

SMALL: dict[str, Any] = {
    "epochs": 1, "batch_size": 50, "population": 4, "generations": 2, "evaluations": 4, "elite": 1, "samples": 16,
    "candidates": 2, "steps": 2, "budgets": 2, "most_rounds": 2, "batch_norm_batches": 1, "batch": 2, "threads_per_trial": 1,
    "most": 6, "startup": 2, "points": 2, "repetitions": 20, "seconds": 0.05, "interval": 1, "round_to": 1,
}  # fmt: skip
"""Values by key that make a pipeline one of seconds."""

DIGITS = {
    "model": {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 4}},
    "data": {"name": "digits", "search_size": 100, "train_size": 200},
}
FILES = ("empty.pt", "text.pt", "a_folder", "code.pt", "cut.safetensors", "nothing.pt", "picture.png", "../c.yaml", "c.yaml")
"""Names of files that the trial of a configuration makes, or that aren't there."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.5, 1.5, 1e-9, 99, 1000, 10**6, 2**31, 2**63 - 1, 10**18, 10**30, 1e308,
    5e-324, -0.0, float("nan"), float("inf"), -float("inf"), "", " ", "x", "0", "true", "null", "nan", "<= 40%", "<= nan",
    "<= 1e999", "<= -3", ">= 2", "50%", "<=", "%", "auto", "cuda", "mps", "é" * 50, "x" * 3000, "a\nb", "\t", "\x7f", "\u202e",
    "*", "**", "[", "[!", "features.*", "a.b.c", ":", ".", "a:b", "json.dumps", "json", "builtins.dict", "torch.nn.Identity",
    "spaces.networks", "spaces.networks.resnet20", "torch.nn.Linear", "sys.exit", "${HOME}", "$x$", "~", "/nowhere/at/all",
    [], [[]], [None], [0], [1, 1], ["x"], ["*"], [1e9], list(range(300)), {}, {"": 1}, {"x": {}}, {"name": None}, {"name": 3},
    {"name": "x"}, {"genetic": {}}, {"a": 1, "b": 2}, *FILES,
)  # fmt: skip
KEYS = (
    "",
    " ",
    "name",
    "x",
    "NAME",
    "epochs",
    "epoch",
    "lr",
    "__class__",
    "class",
    "arguments",
    "<<",
    "é",
    "1",
    "x" * 500,
    "a.b",
)


@dataclass(frozen=True)
class Malformed:
    """A configuration that something is wrong with, or was meant to be.

    Attributes:
        name: The shipped configuration, and the kinds of mistakes.
        content: The file.
        small: Whether it was made one of seconds before, so that it can be tried as a whole.
    """

    name: str
    content: bytes
    small: bool


def malformed(number: int, seed: int = 0) -> Malformed:
    """Return the configuration of a number: the same one always, with the network as shipped for every third."""
    rng = random.Random(f"{seed}/{number}")
    path = CONFIGS[number % len(CONFIGS)]
    small = number // len(CONFIGS) % 3 != 0
    data = shipped(path)
    if small:
        data = shrunk(data)
    if rng.random() < 0.2:
        return _as_text(rng, path.stem, data, small)
    words = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        kind = rng.choice(list(MISTAKES))
        try:
            data = MISTAKES[kind](rng, data)
        except (IndexError, KeyError, TypeError):  # The first mistake left no such place.
            data, kind = _another_value(rng, data), "another value"
        words.append(kind)
    return Malformed(f"{path.stem}: {', '.join(words)}", to_yaml(data).encode(), small)


@cache
def _read(path: Path) -> dict[str, Any]:
    return read_document(path).data


def shipped(path: Path) -> dict[str, Any]:
    """Return a configuration as plain data."""
    return copy.deepcopy(_read(path))


def unharmed(number: int) -> Malformed:
    """Return a shipped configuration, made small, with nothing wrong."""
    path = CONFIGS[number % len(CONFIGS)]
    return Malformed(f"{path.stem}: nothing", to_yaml(shrunk(shipped(path))).encode(), True)


def shrunk(data: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the stages of ``data``, on few digits and with few trials."""
    found = _small(data)
    if "class" in data["task"]:
        return {**found, "task": {**data["task"], "arguments": {"width": 4}}}
    return {**found, "task": copy.deepcopy(DIGITS)}


def _small(value: Any) -> Any:
    if isinstance(value, list):
        return [_small(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {key: _small(inner) for key, inner in value.items()}
    found |= {key: SMALL[key] for key in found if key in SMALL and isinstance(found[key], int | float)}
    if isinstance(count := found.get("count"), int):
        found["count"] = min(count, 2)
    if isinstance(target := found.get("target"), dict):
        found["target"] = {metric: "<= 90%" if metric == "latency_ms" else "<= 60%" for metric in target}
    if "epochs" in found:
        found["batch_size"] = SMALL["batch_size"]
    return found


def _somewhere(rng: random.Random, data: dict[str, Any]) -> tuple[Place, Any]:
    """Return a place and what stands there; each depth is as likely as the others."""
    known = list(places(data))
    depth = rng.choice(sorted({len(place) for place, _ in known}))
    return rng.choice([(place, value) for place, value in known if len(place) == depth])


def _holder(data: dict[str, Any], place: Place) -> Any:
    holder: Any = data
    for key in place[:-1]:
        holder = holder[key]
    return holder


def _another_value(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    place, _ = _somewhere(rng, data)
    return replaced(data, place, copy.deepcopy(rng.choice(VALUES)))


def _another_number(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    numbers = [(place, value) for place, value in places(data) if isinstance(value, int | float)]
    if not numbers:
        return _another_value(rng, data)
    place, value = rng.choice(numbers)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: -value,
        lambda: value * 1000,
        lambda: value * 10**9,
        lambda: value / 1000,
        lambda: float(value),
        lambda: value + 0.5,
        lambda: 0,
        lambda: str(value),
        lambda: [value],
        lambda: float("nan"),
        lambda: 10**17,
    )
    return replaced(data, place, rng.choice(ways)())


def _wrapped(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    place, value = _somewhere(rng, data)
    kind = rng.randrange(5)
    nested: Any = [value] if kind == 0 else {"x": value} if kind == 1 else str(value) if kind == 2 else value
    for _ in range(rng.choice((5, 45, 60)) if kind > 2 else 0):
        nested = [nested] if kind == 3 else {"x": nested}
    return replaced(data, place, nested)


def _another_key(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    named = [place for place, _ in places(data) if isinstance(place[-1], str)]
    place = rng.choice(named)
    return renamed(data, place, rng.choice((*KEYS, f"{place[-1]}s", str(place[-1])[:-1], str(place[-1]).upper())))


def _one_more_key(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    mappings = [(), *(place for place, value in places(data) if isinstance(value, dict))]
    place = rng.choice(mappings)
    every = sorted({str(at[-1]) for path in CONFIGS for at, _ in places(shipped(path)) if isinstance(at[-1], str)})
    key = rng.choice(KEYS) if rng.random() < 0.3 else rng.choice(every)
    return replaced(data, (*place, key), copy.deepcopy(rng.choice(VALUES)))


def _left_out(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(data)
    place, _ = _somewhere(rng, found)
    del _holder(found, place)[place[-1]]
    return found


def _twice(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    lists = [(place, value) for place, value in places(data) if isinstance(value, list) and value]
    place, value = rng.choice(lists) if lists else (("stages",), [{}])
    order = [*value, copy.deepcopy(rng.choice(value))] if rng.random() < 0.5 else rng.sample(value, len(value))
    return replaced(data, place, order)


def _of_another(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    """Put a block of another shipped configuration where one of the same key stands: each is right by itself."""
    other = shrunk(shipped(rng.choice(CONFIGS)))
    here = [place for place, value in places(data) if isinstance(value, dict | list | str)]
    there = [(place, value) for place, value in places(other) if place[-1] in {at[-1] for at in here}]
    place, value = rng.choice(there)
    return replaced(data, rng.choice([at for at in here if at[-1] == place[-1]]), copy.deepcopy(value))


def _exchanged(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    (first, one), (second, other) = _somewhere(rng, data), _somewhere(rng, data)
    if first[: len(second)] == second or second[: len(first)] == first:
        return _another_value(rng, data)
    return replaced(replaced(data, first, copy.deepcopy(other)), second, copy.deepcopy(one))


def _file(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    place = rng.choice((("task", "model", "checkpoint"), ("task", "data", "root"), ("storage",), ("task", "model", "factory")))
    value = rng.choice(FILES)
    if place == ("storage",):
        value = rng.choice(("sqlite:///", "sqlite:////nowhere/", "sqlite:///a_folder/../", "nothing://", "")) + value
    return replaced(data, place, value)


MISTAKES: dict[str, Callable[[random.Random, dict[str, Any]], dict[str, Any]]] = {
    "another value": _another_value,
    "another number": _another_number,
    "wrapped": _wrapped,
    "another key": _another_key,
    "one more key": _one_more_key,
    "left out": _left_out,
    "twice or in another order": _twice,
    "a block of another configuration": _of_another,
    "two exchanged": _exchanged,
    "a file": _file,
}


def _as_text(rng: random.Random, name: str, data: dict[str, Any], small: bool) -> Malformed:
    kind = rng.choice(list(ODDITIES))
    lines = to_yaml(data).splitlines(keepends=True)
    return Malformed(f"{name}: text, {kind}", ODDITIES[kind](rng, lines), small)


def _at_a_line(rng: random.Random, lines: list[str], change: Callable[[str], str]) -> bytes:
    index = rng.randrange(len(lines))
    return "".join([*lines[:index], change(lines[index]), *lines[index + 1 :]]).encode()


def _with_value(rng: random.Random, lines: list[str]) -> bytes:
    plain = [index for index, line in enumerate(lines) if ": " in line]
    index = rng.choice(plain)
    key, _, value = lines[index].rstrip("\n").partition(": ")
    written = rng.choice(WRITTEN).replace("{value}", value)
    return "".join([*lines[:index], f"{key}: {written}\n", *lines[index + 1 :]]).encode()


WRITTEN = (
    "!!str {value}", "!!int {value}", "!!float {value}", "!!python/object/apply:os.system [ls]", "!x {value}", "&a {value}",
    "*nothing", "&a [*a]", "yes", "off", "1:30", "0o17", "0x1F", "1_000", "2020-01-01", "=", "<<", "~", "|\n  {value}",
    "'{value}",
    '"{value}', "[{value}", "{{value}: 1", "{value} # x", "{value}: 3", "- {value}", "? {value}", "@x", "`x`", "%x",
    "\t{value}",
    ".5", "+1", "1e3", "1E+3", "-.inf", ".NaN", "1e400", "--1", "0x" + "f" * 5000, "9" * 5000, "'\\x00'", '"\\ud800"',
    '"\\x00"',
    "[" * 10_000, "{a: " * 9_000, "[" * 49 + "]" * 49, "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!null x",
)  # fmt: skip


def _cut(rng: random.Random, lines: list[str]) -> bytes:
    text = "".join(lines).encode()
    return text[: rng.randrange(len(text))]


def _bytes(rng: random.Random, lines: list[str]) -> bytes:
    text = bytearray("".join(lines).encode())
    for _ in range(rng.choice((1, 3, 30))):
        text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def _swapped(rng: random.Random, lines: list[str]) -> bytes:
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return "".join(lines).encode()


def _with_a_character(rng: random.Random, lines: list[str]) -> bytes:
    return _at_a_line(rng, lines, lambda line: line.replace(rng.choice(line), rng.choice(":{[,&*#-"), 1))


def _pieces(rng: random.Random) -> Iterator[bytes]:
    yield b"---\n"
    yield b"%YAML 1.1\n---\n"
    yield b"\xef\xbb\xbf"
    yield b"\x00"
    yield b"\xff\xfe"
    yield b"...\n"
    yield b"<<: *x\n"
    yield b"x: &x {a: 1}\n<<: *x\n"
    yield b"name: again\n"


ODDITIES: dict[str, Callable[[random.Random, list[str]], bytes]] = {
    "a value": _with_value,
    "a value in another way": _with_value,
    "cut": _cut,
    "bytes": _bytes,
    "lines exchanged": _swapped,
    "a line less": lambda rng, lines: _at_a_line(rng, lines, lambda line: ""),
    "a line twice": lambda rng, lines: _at_a_line(rng, lines, lambda line: line * 2),
    "another indentation": lambda rng, lines: _at_a_line(rng, lines, lambda line: rng.choice((" ", "  ", "\t", "    ")) + line),
    "less indentation": lambda rng, lines: _at_a_line(rng, lines, lambda line: line.removeprefix("  ")),
    "line ends": lambda rng, lines: "".join(lines).replace("\n", rng.choice(("\r\n", "\r", "\u2028", "\n\n"))).encode(),
    "a character": lambda rng, lines: _at_a_line(
        rng, lines, lambda line: line.replace(rng.choice(line), rng.choice(":{[,&*#-"), 1)
    ),
    "a piece before": lambda rng, lines: rng.choice(list(_pieces(rng))) + "".join(lines).encode(),
    "a piece behind": lambda rng, lines: "".join(lines).encode() + rng.choice(list(_pieces(rng))),
    "another encoding": lambda rng, lines: "".join(lines).encode(rng.choice(("utf-16", "utf-32", "utf-7"))),
}
