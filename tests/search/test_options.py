"""``list NAME``: the options of a block, read off its Settings."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import pytest
from rich.console import Console
from typer.testing import CliRunner

from search.cli import app
from search.config.registries import EvaluatorBlock, LimitField
from search.options import options_by_kind, show_options, type_in_words
from search.pipeline.inspection import REGISTRIES, registered, show_registered
from spaces.registry import UnknownNameError

NAMES = sorted({name for registry in REGISTRIES for name in getattr(import_module(registry.module), registry.registry)})


def test_options_have_defaults_as_a_configuration_has_them_and_those_of_the_parent_class_come_along() -> None:
    ((_, found),) = options_by_kind("image_folder").values()
    options = {option.name: option for option in found}
    assert (options["image_size"].default, options["split_seed"].default) == ("224", "0")
    assert (options["augment"].default, options["resize"].default) == ("true", "null")
    assert options["search_size"].meaning == "Samples set aside from the training set for searches and early stopping."


def test_options_within_options_are_named_by_their_path() -> None:
    ((_, found),) = options_by_kind("retrain").values()
    options = {option.name: option for option in found}
    assert options["epochs"].default == ""
    assert options["optimizer"].default == "as below"
    assert options["optimizer.name"].type == "sgd, adam or adamw or text"
    assert options["early_stop.patience"].default == "5"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_meaning(name: str) -> None:
    for _, options in options_by_kind(name).values():
        assert [option.name for option in options if not option.meaning or not option.type] == []


def test_options_of_another_block_are_named_and_not_repeated() -> None:
    ((_, found),) = options_by_kind("search").values()
    options = {option.name: option for option in found}
    assert "Its options are those of `train`." in options["training"].meaning
    assert "Its options are those of `train`." in options["finalists.training"].meaning
    assert not [name for name in options if name.startswith(("training.", "finalists.training."))]
    assert "budget.evaluations" in options


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (float | None, "number, or null"),
        (tuple[float, ...] | None, "list of numbers, or null"),
        (bool | tuple[Literal["crop", "flip"], ...], "true or false or list of crop or flip"),
        (dict[str, dict[str, float]], "mapping of text to mapping of text to numbers"),
        (Literal["tpe", "gp", "random"], "tpe, gp or random"),
        (tuple[EvaluatorBlock, ...], "list of evaluators"),
        (dict[str, LimitField], "mapping of text to limits"),
        (Literal["auto", "off"], 'auto or "off"'),
    ],
)
def test_types_are_told_in_words(hint: Any, words: str) -> None:
    assert type_in_words(hint) == words


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("name", NAMES)
def test_the_options_fit_the_terminal_and_read_as_prose(name: str, width: int) -> None:
    shown = _shown(lambda console: show_options(name, console), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    for option in next(iter(options_by_kind(name).values()))[1]:
        assert option.name in shown.replace("\n", "")
    assert not [word for word in ("Args:", "Attributes:", "Raises:", "``", ":class:", ":func:", ":mod:") if word in shown]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_names_fit_the_terminal(width: int) -> None:
    shown = _shown(lambda console: show_registered(registered(), console), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    assert all(name in shown for name in NAMES)


def _shown(show: Callable[[Console], None], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_list_shows_the_options_of_a_name() -> None:
    output = CliRunner().invoke(app, ["list", "image_folder"]).output
    assert "smallest_area" in output
    assert "list of numbers, or null" in output
    with pytest.raises(UnknownNameError, match="did you mean 'genetic'"):
        options_by_kind("gentic")
