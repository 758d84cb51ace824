from __future__ import annotations

from pathlib import Path

import pytest

from search.config import load
from search.config.block import Limit, parse_limit
from search.config.document import ConfigError, to_yaml
from spaces.errors import SecateursError

MINIMAL = """\
name: tiny
task:
  model: {factory: spaces.networks.digits_cnn}
  data: {name: digits}
stages:
  - train: {epochs: 1}
  - search:
      space: {name: channel_mask}
      algorithm: {name: genetic, population: 8, generations: 2}
      evaluate: [{accuracy: {split: search}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
  - retrain: {epochs: 1}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), list(overrides))
    assert isinstance(caught.value, SecateursError)
    return [str(fault) for fault in caught.value.faults]


def changed(old: str, new: str, text: str = MINIMAL) -> str:
    assert text.count(old) == 1, f"{old!r} must stand once in the text"
    return text.replace(old, new)


def test_a_minimal_configuration_gets_defaults(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL))
    assert (config.name, config.seed) == ("tiny", 0)
    assert [stage.name for stage in config.stages] == ["train", "search", "retrain"]
    assert config.stages[1].settings.algorithm.settings.population == 8
    assert config.stages[1].settings.target == {"macs": Limit(0.4, relative=True)}
    assert [block.name for block in config.stages[1].settings.evaluate] == ["accuracy", "cost"]
    assert config.execution.executor.name == "serial"
    assert config.execution.threads_per_trial == 1


def test_canonical_reads_back_to_the_same(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL), ["stages.train.early_stop={patience: 3}", "seed=7"])
    canonical = config.canonical()
    again = load(write(tmp_path, to_yaml(canonical)))
    assert again == config
    assert again.canonical() == canonical
    assert canonical["stages"][1]["search"]["target"] == {"macs": "<= 40%"}
    assert canonical["task"]["data"]["name"] == "digits"


def test_numbers_in_scientific_notation_without_a_point_are_numbers(tmp_path: Path) -> None:
    text = changed(
        "train: {epochs: 1}",
        "train: {epochs: 1, optimizer: {lr: 5e-2, weight_decay: 1E-4}}",
        MINIMAL.replace("retrain: {epochs: 1}", "retrain: {epochs: 2}"),
    )
    settings = load(write(tmp_path, text)).stages[0].settings
    assert (settings.optimizer.lr, settings.optimizer.weight_decay) == (0.05, 1e-4)


def test_off_is_text_and_not_false(tmp_path: Path) -> None:
    assert load(write(tmp_path, MINIMAL), ["stages.train.autocast=off"]).stages[0].settings.autocast == "off"


def test_all_errors_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = changed("population: 8", "populaton: 8")
    text = changed("name: digits", "name: digit", text)
    text = changed("name: tiny", "name: a/b\nsed: 3", text)
    found = faults(tmp_path, text)
    assert len(found) == 4
    assert found[0].startswith("line 1, name: ")
    assert found[1].startswith("line 2, sed: unknown key; did you mean 'seed'?")
    assert found[2].startswith("line 5, task.data: unknown data set 'digit'; did you mean 'digits'?")
    assert found[3].startswith("line 10, stages.1.search.algorithm.populaton: unknown key; did you mean 'population'?")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  - retrain: {epochs: 1}\n", "  - retrian: {epochs: 1}\n", "unknown stage 'retrian'; did you mean 'retrain'?"),
        ("name: genetic,", "name: genetik,", "unknown algorithm 'genetik'; did you mean 'genetic'?"),
        ("name: channel_mask", "name: channel_masks", "unknown space 'channel_masks'; did you mean 'channel_mask'?"),
        (
            "name: genetic,",
            "name: json.dumps,",
            "'json.dumps': expected an algorithm, a class that derives from ",
        ),
        ("name: genetic,", "name: search.stages.export:Export,", "derives from search.algorithms.base:Algorithm, got <class"),
        ("name: genetic,", "name: search.algorithms.base.Algorithm,", "expected an algorithm with a dataclass Settings"),
        ("name: channel_mask", "name: math:pi.x", "math has no 'x'"),
        ("split: search", "split: test", "stages.1.search.evaluate.0.accuracy.split: "),
        ("split: search", "splt: search", "evaluate.0.accuracy.splt: unknown key; did you mean 'split'?"),
        ("generations: 2", "generations: two", "algorithm.generations: expected a whole number, got 'two'"),
        ("generations: 2", "generations: '2'", "algorithm.generations: expected a number, got '2'"),
        ("generations: 2", "generations: true", "algorithm.generations: expected a number, got True"),
        ("population: 8", "population: 1", "algorithm.population: expected at least 2, got 1"),
        ("space: {name: channel_mask}", "space: {name: channel_mask, max_ratio: .nan}", "max_ratio"),
        ('"<= 40%"', '">= 40%"', "target.macs: expected"),
        ('"<= 40%"', '"<= 100%"', "target.macs: a limit must be below 100%"),
        ('"<= 40%"', '"<= 0"', "target.macs: a limit must be above 0"),
        ('macs: "<= 40%"', 'mac: "<= 40%"', "target.mac: no evaluator measures 'mac'; did you mean 'macs'?"),
        ('macs: "<= 40%"', 'top1: "<= 40%"', "target.top1: top1 is no cost"),
        ("top1: maximize", "top1: minimize", "objectives.top1: top1 is better the other way; expected maximize"),
        ("top1: maximize", "top5: maximize", "objectives.top5: no evaluator measures 'top5'; did you mean 'top1'?"),
        ("top1: maximize", "macs: minimize", "objectives: seeks small costs only"),
        ("      algorithm: {name: genetic, population: 8, generations: 2}\n", "", "stages.1.search.algorithm: is missing"),
        ("factory: spaces.networks.digits_cnn", "factory: spaces.networks.digit_cnn", "did you mean 'digits_cnn'?"),
        ("factory: spaces.networks.digits_cnn", "factory: nowhere.net", "there is no module 'nowhere'"),
        ("digits_cnn}", "digits_cnn, arguments: {clases: 3}}", "task.model.arguments: "),
        ("digits_cnn}", "digits_cnn, init_seed: -1}", "task.model.init_seed: expected at least 0, got -1"),
        ("digits_cnn}", "digits_cnn, init_seed: 1e30}", "task.model.init_seed: expected a whole number of at most 64 bits"),
        ("digits_cnn}", "digits_cnn, arguments: {width: 99999999999999999999}}", "arguments.width: expected a whole number of"),
        ("digits_cnn}", "digits_cnn, checkpoint: absent.pt}", "task.model.checkpoint: there is no file"),
        ("  - retrain: {epochs: 1}\n", "  - export: {}\n  - retrain: {epochs: 1}\n", "export must be the last stage"),
        (
            "  - retrain: {epochs: 1}\n",
            "  - fuse: {}\n  - retrain: {epochs: 1}\n",
            "fuse merges for inference only, and retrain",
        ),
        ("  - train: {epochs: 1}\n", "  - retrain: {epochs: 3}\n", "no search comes before it"),
        ("  - retrain: {epochs: 1}\n", "  - sparse_training: {epochs: 1, sparsifier: scaling_factor}\n", "none comes after it"),
        ("  - train: {epochs: 1}\n", "  - train:\n    epochs: 1\n", "indented below it, got keys: train, epochs"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = faults(tmp_path, changed(old, new))
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "expected key=value"),
        ("stages.9.train.epochs=2", "stages has entries 0 to 2, there is no 9"),
        ("stages.serch.batch=2", "stages has no entry 'serch'; did you mean 'search'?"),
        ("stages.search.algorithm.populatin=4", "override 'stages.search.algorithm.populatin=4', stages.1.search.algorithm."),
        ("seed.x=1", "seed is 0, which has no keys below it"),
        ("name={", "is not YAML"),
        ("execution.thread_per_trial=2", "unknown key; did you mean 'threads_per_trial'?"),
    ],
)
def test_wrong_overrides_are_explained(tmp_path: Path, override: str, expected: str) -> None:
    text = changed("name: tiny", "name: tiny\nseed: 0")
    found = faults(tmp_path, text, override)
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize(
    "path", ["stages.search.algorithm.generations", "stages.1.search.algorithm.generations", "stages.1.algorithm.generations"]
)
def test_overrides_reach_a_stage_by_position_and_name(tmp_path: Path, path: str) -> None:
    config = load(write(tmp_path, MINIMAL), [f"{path}=5"])
    assert config.stages[1].settings.algorithm.settings.generations == 5


def test_overrides_add_what_the_file_leaves_out(tmp_path: Path) -> None:
    overrides = [
        "execution.threads_per_trial=2",
        "stages.search.evaluate.cost={}",
        "stages.search.evaluate.accuracy.batch_size=64",
    ]
    config = load(write(tmp_path, MINIMAL), overrides)
    assert config.execution.threads_per_trial == 2
    assert config.stages[1].settings.evaluate[0].settings.batch_size == 64
    assert config.stages[1].settings.evaluate[0].settings.split == "search"


def test_two_stages_of_a_name_need_the_position(tmp_path: Path) -> None:
    text = changed("  - retrain: {epochs: 1}\n", "  - retrain: {epochs: 1}\n  - retrain: {epochs: 2}\n")
    assert "has 2 entries 'retrain'; give the position, one of [2, 3]" in faults(tmp_path, text, "stages.retrain.epochs=4")[0]
    assert load(write(tmp_path, text), ["stages.3.epochs=4"]).stages[3].settings.epochs == 4


def test_a_class_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_task.py").write_text(
        "from evaluators.task import Task\nclass Theirs(Task):\n    def __init__(self, size: int): ...\nclass Other: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    task = "task:\n  model: {factory: spaces.networks.digits_cnn}\n  data: {name: digits}\n"
    own = changed(task, "task: {class: their_task.Theirs, arguments: {size: 3}}\n")
    own = changed("top1: maximize", "iou: maximize", own)
    config = load(write(tmp_path, own))
    assert config.canonical()["task"] == {"class": "their_task.Theirs", "arguments": {"size": 3}}
    assert "task.arguments" in faults(tmp_path, own.replace("size: 3", "sze: 3"))[0]
    assert (
        "expected a subclass of evaluators.task.Task"
        in faults(tmp_path, own.replace("Theirs, arguments: {size: 3}", "Other"))[0]
    )


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("<= 40%", Limit(0.4, True)),
        ("40 %", Limit(0.4, True)),
        ("<= 1_200_000", Limit(1.2e6, False)),
        (1.2e6, Limit(1.2e6, False)),
        ("<= 1.2e6", Limit(1.2e6, False)),
    ],
)
def test_limits(text: str | float, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit
    assert limit.absolute(200.0) == (pytest.approx(80.0) if limit.relative else 1.2e6)


@pytest.mark.parametrize("text", ["", "forty", ">= 40%", "< 40%", "<= 40%%", "<= 0%", "-3", "<= 100%", True])
def test_texts_that_are_no_limits(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        parse_limit(text)
