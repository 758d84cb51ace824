from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from search.config.block import Block, Limit
from search.config.registries import ALGORITHM, EVALUATOR, STAGE, LimitField
from search.stages.search.settings import BudgetSettings, SearchSettings
from spaces.errors import SecateursError

BLOCK = TypeAdapter(Annotated[Block, EVALUATOR])


@pytest.mark.parametrize("written", ["cost", {"cost": None}, {"cost": {}}, {"name": "cost"}])
def test_the_forms_of_a_block(written: Any) -> None:
    block = BLOCK.validate_python(written)
    assert block.name == "cost"
    assert EVALUATOR.build(block).metrics


def test_options_of_a_block() -> None:
    for written in ({"accuracy": {"batch_norm_batches": 3}}, {"name": "accuracy", "batch_norm_batches": 3}):
        assert BLOCK.validate_python(written).settings.batch_norm_batches == 3


@pytest.mark.parametrize(
    ("written", "message", "place"),
    [
        ("acuracy", "did you mean 'accuracy'", ()),
        (["cost"], "expected the name of a evaluator|expected the name of an evaluator", ()),
        ({"accuracy": {"batch_size": 0}}, "batch_size", ()),
        ({"accuracy": {"batches": 1}}, "nexpected", ("batches",)),
    ],
)
def test_mistakes_in_a_block(written: Any, message: str, place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        BLOCK.validate_python(written)
    assert caught.value.errors()[0]["loc"] == place


def test_a_class_of_the_users_own() -> None:
    assert EVALUATOR.find("evaluators.cost:Cost") is EVALUATOR.find("cost")
    with pytest.raises(SecateursError, match="genetic"):
        ALGORITHM.find("genetics")


def test_limits() -> None:
    limit = TypeAdapter(LimitField)
    assert limit.validate_python("<= 40%") == Limit(0.4, True)
    assert limit.validate_python(1e6) == Limit(1e6, False)
    with pytest.raises(ValidationError, match="40%"):
        limit.validate_python("half")


def search(**changes: Any) -> SearchSettings:
    written = {
        "space": "channel_mask",
        "algorithm": {"name": "random", "evaluations": 4},
        "evaluate": ["cost"],
        "objectives": {"macs": "minimize"},
    }
    return TypeAdapter(SearchSettings).validate_python({**written, **changes})


def test_search_settings() -> None:
    settings = search(target={"macs": "<= 40%"}, budget={"evaluations": 3})
    assert settings.target == {"macs": Limit(0.4, True)}
    assert settings.budget == BudgetSettings(evaluations=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"objectives": {}}, "objectives must name"),
        ({"evaluate": []}, "evaluate must name"),
        ({"baselines": ["uniform", "uniform"]}, "twice"),
        ({"budget": {"seconds": 0}}, "seconds must be above 0"),
        ({"baselines": ["unifrom"]}, "uniform"),
    ],
)
def test_wrong_search_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        search(**changes)


def test_a_stage_is_found_by_its_name() -> None:
    from search.stages.train import Train

    assert STAGE.find("train") is Train
