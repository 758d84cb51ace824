"""``list NAME``: the options of a block, read off its Settings."""

from __future__ import annotations

from importlib import import_module

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.options import options_by_kind
from search.pipeline.inspection import REGISTRIES
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
    assert options["optimizer.name"].type == "sgd or adam or adamw"
    assert options["early_stop.patience"].default == "5"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_meaning(name: str) -> None:
    for _, options in options_by_kind(name).values():
        assert [option.name for option in options if not option.meaning or not option.type] == []


def test_list_shows_the_options_of_a_name() -> None:
    output = CliRunner().invoke(app, ["list", "image_folder"]).output
    assert "smallest_area" in output
    assert "tuple[float, ...] | None" in output
    with pytest.raises(UnknownNameError, match="did you mean 'genetic'"):
        options_by_kind("gentic")
