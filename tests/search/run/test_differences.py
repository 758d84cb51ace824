from typing import Any

import pytest

from search.run.differences import differences

OLD: dict[str, Any] = {
    "seed": 0,
    "execution": {"workers": 2},
    "stages": [{"train": {"epochs": 3}}, {"search": {"algorithm": {"generations": 5}, "budget": {"seconds": None}}}],
}


@pytest.mark.parametrize(
    ("change", "path", "allowed"),
    [
        ({"seed": 1}, "seed", False),
        ({"execution": {"workers": 8}}, "execution.workers", True),
        ({"execution": {"workers": 2, "address": "auto"}}, "execution.address", True),
        ({"stages": OLD["stages"][:1]}, "stages", False),
        (
            {"stages": [OLD["stages"][0], {"search": {**OLD["stages"][1]["search"], "batch": 4}}]},
            "stages.1.search.batch",
            False,
        ),
        ({"stages": [{"train": {"epochs": 4}}, OLD["stages"][1]]}, "stages.0.train.epochs", False),
    ],
)
def test_differences(change: dict[str, Any], path: str, allowed: bool) -> None:
    (found,) = differences(OLD, {**OLD, **change})
    assert ".".join(found.path) == path
    assert found.allowed is allowed


@pytest.mark.parametrize(("new", "allowed"), [(6, True), (4, False), (None, True)])
def test_budgets_may_only_grow(new: int | None, allowed: bool) -> None:
    search = {"search": {"algorithm": {"generations": new}, "budget": {"seconds": None}}}
    (found,) = differences(OLD, {**OLD, "stages": [OLD["stages"][0], search]})
    assert found.allowed is allowed


@pytest.mark.parametrize(
    ("stage", "option", "old", "new", "allowed"),
    [
        ("retrain", "epochs", 2, 3, True),
        ("retrain", "epochs", 3, 2, False),
        ("sparse_training", "epochs", 2, 3, False),
        ("export", "formats", ["onnx"], ["torch_export", "onnx"], True),
        ("export", "formats", ["onnx", "torch_export"], ["onnx"], False),
        ("export", "formats", ["onnx"], ["torch_export"], False),
        ("search", "baselines", [], ["uniform"], True),
        ("search", "baselines", ["uniform"], ["random", "global_magnitude"], False),
    ],
)
def test_what_a_stage_says_may_grow(stage: str, option: str, old: Any, new: Any, allowed: bool) -> None:
    (found,) = differences({"stages": [{stage: {option: old}}]}, {"stages": [{stage: {option: new}}]})
    assert found.allowed is allowed


def test_a_limit_where_there_was_none_is_no_raise() -> None:
    search = {"search": {"algorithm": {"generations": 5}, "budget": {"seconds": 10.0}}}
    (found,) = differences(OLD, {**OLD, "stages": [OLD["stages"][0], search]})
    assert not found.allowed


def test_equal() -> None:
    assert not list(differences(OLD, dict(OLD)))
