"""Tables of docs/configuration.md, read off the settings of the code and the shipped configurations.

``PYTHONPATH=. python docs/write_configuration.py`` writes docs/configuration.md; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from functools import cache
from inspect import get_annotations, getdoc
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic_core import PydanticUndefined

from evaluators.meters import MeterSettings
from evaluators.tasks.imported_data import ImportedDataSettings
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.settings import OwnTaskSettings
from search.config.document import read_document
from search.config.loading import Config, Execution
from search.config.registries import ALGORITHM, DATASET, EVALUATOR, EXECUTOR, SPACE, SPARSIFIER, STAGE, TRACKER, Registered
from search.config.schema import options_of
from search.config.yaml_text import in_yaml
from search.options import Option, block_with, description, own_options, plain_text, type_in_words
from spaces.registry import resolve

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "configuration.md"

HEAD = """\
# Every key of a configuration
Written by `PYTHONPATH=. python docs/write_configuration.py` from the code's own settings: change those, not this page.

A run is one YAML file; [README.md](../README.md#your-own-network-and-data) shows a whole one, and `configs/` has many.
`python -m search check FILE` names every mistake in it with its line, and `python -m search list NAME` shows one block of this
page in the terminal. A key without a default must be given. Any value can be set on the command line too, by the names on its
way: `stages.search.algorithm.generations=3`.

A *block* is written as `{name: NAME, key: value}`, as `{NAME: {key: value}}` or, without keys, as `NAME`. A *limit* is a share
of what the network costs that the search starts from (`"<= 40%"`), or a number in the metric's unit (`"<= 1.2e6"`). A *name
pattern* is a layer's name in which `*` stands for anything (`"layer1.*"`). A *share* is a number from 0 to 1. Examples come
from the shipped configurations where one gives the key.
"""

KINDS = (
    (STAGE, "Stages", "The steps of a run, in their order: `stages: [{train: {epochs: 20}}, ...]`."),
    (SPACE, "Spaces", "The decisions that a search is free to take: `space:` of the stage [search](#search)."),
    (ALGORITHM, "Algorithms", "The ways to choose what is tried next: `algorithm:` of the stage [search](#search)."),
    (EVALUATOR, "Evaluators", "What is measured of every candidate network: `evaluate:` of the stage [search](#search)."),
    (SPARSIFIER, "Sparsifiers", "What a training does beside learning: `sparsifier:` of [sparse_training](#sparse_training)."),
    (DATASET, "Data sets", "`data:` of [task](#task)."),
    (EXECUTOR, "Executors", "Where candidates are measured: `executor:` of [execution](#execution), with its keys beside it."),
    (TRACKER, "Trackers", "Who is told of the run: `trackers:` of [execution](#execution) ([tracking.md](tracking.md))."),
)

UNITS = {
    "activation_bits": "bits",
    "batch_norm_batches": "batches",
    "batch_size": "samples",
    "training_timeout": "s",
    "training_workers": "processes",
    "calibration_samples": "samples",
    "calibration_size": "samples",
    "candidates": "candidates",
    "cpus_per_trial": "CPUs",
    "crossover": "probability",
    "elite": "candidates",
    "epochs": "epochs",
    "evaluations": "candidates",
    "fidelities": "share of a full measurement",
    "first_last_bits": "bits",
    "gpus_per_trial": "GPUs",
    "image_size": "pixels",
    "latency": "ms",
    "length": "tokens",
    "most_pixels": "pixels",
    "mutation": "probability",
    "offspring": "candidates",
    "patience": "epochs",
    "percentile": "%",
    "population": "candidates",
    "repetitions": "runs",
    "resize": "pixels",
    "samples": "samples",
    "search_size": "samples",
    "seconds": "s",
    "target": "% of the reference, or the metric's",
    "threads": "threads",
    "threads_per_trial": "threads",
    "tournament": "candidates",
    "train_size": "samples",
    "weight_bits": "bits",
}
"""Units of numbers by the key's name; every other number is a pure one, or counts what its meaning names."""

TOP = {
    "task": ("mapping", "The network and its data; see [task](#task)."),
    "execution": ("mapping", "Place and manner of measuring candidates; see [execution](#execution)."),
    "storage": ("text, or null", "URL of a database for the trials; null for a file in the run folder."),
    "stages": ("list of stages", "The steps of the run, in order; see [stages](#stages)."),
    "executor": ("executor", "Name of the executor; see [executors](#executors)."),
    "trackers": ("list of trackers", "Trackers that are told of the run while it goes on; see [trackers](#trackers)."),
}
TASK = {
    "model": ("mapping", "The network; see [task.model](#taskmodel)."),
    "data": (
        "data set, or mapping",
        "The data: one of the [data sets](#data-sets), or a function of your own; see [task.data](#taskdata-by-import-path).",
    ),
    "loss": (
        "text, or null",
        "Of data by import path: import path of a function of outputs and targets to the mean loss, or to a value per sample, "
        "or of a class of such; `model` for a network that gives its losses itself; null for cross-entropy. Without a score it "
        "is what is minimized and shown.",
    ),
    "score": ("mapping, or null", "A metric of your choice instead of accuracy; see [task.score](#taskscore)."),
}
IMPORTED = """\
A function of your own that returns torch data sets or data loaders. Of a `DataLoader` its data set, sampler, `drop_last`,
`collate_fn` and workers are used; batch size and order are the run's. Inputs that are floating-point numbers become float32.
[models.md](models.md#data-of-your-own-by-import-path) shows one."""
TASK_EXAMPLES = {
    "model": "{factory: torchvision.models.resnet18}",
    "data": "{name: digits}",
    "score": "see below",
    "loss": "torch.nn.functional.mse_loss",
}

EXAMPLES = {
    "activations": "true",
    "address": "10.0.0.5:6379",
    "arguments": "{classes: 10}",
    "asynchronous": "true",
    "autocast": '"off"',
    "budget": "{seconds: 600}",
    "cache": "/data/latencies",
    "checkpoint": "trained.safetensors",
    "class": "my_package.tasks.Mine",
    "cpus_per_trial": "2",
    "cutmix": "1.0",
    "clip_value": "0.01",
    "entity": "my_team",
    "ema": "{decay: 0.999}",
    "erasing": "0.25",
    "evaluations": "200",
    "finalists": "{count: 3, training: {epochs: 2}}",
    "factory": "my_package.my_data.splits",
    "folder": "/data/events",
    "folder_name": "novels",
    "gpus_per_trial": "0.25",
    "gpus_per_training_worker": "1",
    "halving": "{keep: 0.3}",
    "include": '["layer1.*", "layer2.*"]',
    "exclude": '["conv1"]',
    "interval": "20",
    "length": "128",
    "loss": "{name: torch.nn.CrossEntropyLoss}",
    "macs": "0.5",
    "mixup": "0.2",
    "mean": "[0.485, 0.456, 0.406]",
    "name": "torch.nn.CrossEntropyLoss",
    "nodes": "100000",
    "no_decay": "[positions]",
    "first_last_bits": "4",
    "offspring": "16",
    "racing": "{fidelities: [0.25]}",
    "rand_augment": "{operations: 2, magnitude: 9}",
    "rates": "{classifier: 10.0}",
    "ratios": '{"layer1.*": 0.3}',
    "reconstruct": "{images: 768}",
    "resize": "256",
    "resource": "phone",
    "retries": "5",
    "root": "/data/mine",
    "seconds": "60",
    "shards": "4",
    "std": "[0.229, 0.224, 0.225]",
    "storage": "sqlite:///studies.db",
    "tokenizer": "tokenizer.json",
    "trackers": "[tensorboard]",
    "uri": "http://tracking.example:5000",
    "train_only": "[norms, biases, head]",
    "train_size": "5000",
    "training": "{epochs: 2}",
    "training_timeout": "120",
    "training_workers": "4",
    "latency": "{conv1: {4x8: 0.1, 8x8: 0.2}}",
    "workers": "4",
}
"""Examples of keys that no shipped configuration gives and whose default says nothing, by the key's name."""

METER_EXAMPLES = {
    "name": "torchmetrics.classification.MulticlassF1Score",
    "arguments": "{num_classes: 10, average: macro}",
    "direction": "minimize",
    "key": "map",
    "unit": "points",
}

LONGEST_EXAMPLE = 60


def page() -> str:
    """Return docs/configuration.md."""
    parts = [HEAD, "## The file", _models_table(Config, TOP), "## task", _task_table()]
    parts += ["### task.model", _table(ModelSettings), "### task.data by import path", IMPORTED, _table(ImportedDataSettings)]
    parts += ["### task.score", _table(MeterSettings)]
    parts += ["## execution", _models_table(Execution, TOP)]
    shown: dict[type, str] = {}
    for registry, title, words in KINDS:
        parts += [f"## {title}", words]
        for name, path in registry.members.items():
            member = resolve(path)
            parts += [f"### {name}", description(member), *_options(name, member.Settings, shown)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _options(name: str, settings: Any, shown: dict[type, str]) -> Iterator[str]:
    """Yield the table of a block's settings and of those in it; one that stands above already is linked instead."""
    if settings in shown:
        yield f"Its keys are those of [{shown[settings]}](#{_anchor(shown[settings])})."
        return
    shown[settings] = name
    parent = next((base for base in settings.__mro__[1:] if base in shown), None)
    if parent is not None:
        yield f"Its keys are those of [{shown[parent]}](#{_anchor(shown[parent])}), and:"
    inherited = {entry.name for entry in fields(parent)} if parent is not None else set()
    rows = [option for option in own_options(settings) if option.name not in inherited]
    yield _table(settings, [option.name for option in rows])
    for option in rows:
        if option.inner is not None and option.inner not in shown and block_with(option.inner) is None:
            yield f"#### {option.name} of {name}"
            yield from _options(f"{option.name} of {name}", option.inner, shown)


def _table(settings: Any, names: list[str] | None = None) -> str:
    rows = [option for option in own_options(settings) if names is None or option.name in names]
    if not rows:
        return "It has no keys of its own."
    return _rows((option, _example(settings, option)) for option in rows)


def _models_table(model: Any, words: Mapping[str, tuple[str, str]]) -> str:
    """Return the table of a pydantic model, whose containers are described by ``words``."""
    meanings = {name: plain_text(text) for name, text in re.findall(r"    (\w+): (.*(?:\n {8,}.*)*)", getdoc(model) or "")}
    found = []
    for name, field in model.model_fields.items():
        kind, meaning = words.get(name, (type_in_words(field.annotation), meanings.get(name, "")))
        default = "" if field.default in (PydanticUndefined, MISSING) else in_yaml(field.default)
        default = {"execution": "{executor: serial}", "executor": "serial"}.get(name, default)
        example = {
            "name": "mine",
            "seed": "1",
            "task": "see below",
            "execution": "{executor: ray, workers: 4}",
            "executor": "ray",
            "stages": "[{retrain: {epochs: 10}}]",
            "threads_per_trial": "2",
            "device": "cuda:0",
        }.get(name) or EXAMPLES[name]
        found.append((Option(name, kind, default, meaning), example))
    return _rows(iter(found))


def _task_table() -> str:
    """Return the tables of both forms of a task."""
    named = [
        (Option(name, kind, "null" if name in ("score", "loss") else "", words), TASK_EXAMPLES[name])
        for name, (kind, words) in TASK.items()
    ]
    own = [
        (_renamed(option), EXAMPLES["class" if option.name == "path" else option.name])
        for option in own_options(OwnTaskSettings)
    ]
    return (
        f"A network on named data:\n\n{_rows(iter(named))}\n\n"
        f"or a class of your own, derived from `evaluators.task.Task` ([extending.md](extending.md)):\n\n{_rows(iter(own))}"
    )


def _renamed(option: Option) -> Option:
    if option.name != "path":
        return option
    return Option("class", option.type, option.default, "Import path of the class.")


def _rows(options: Iterator[tuple[Option, str]]) -> str:
    lines = ["| key | type | default | unit | meaning | example |", "|---|---|---|---|---|---|"]
    for option, example in options:
        default = {"": "must be given", "as below": "its defaults"}.get(option.default) or f"`{option.default}`"
        code = example if example.startswith("see ") else f"`{example}`"
        unit = UNITS.get(option.name, "") if "number" in option.type or option.name == "target" else ""
        unit = unit or ("share" if re.match(r"(Largest |Smallest )?[Ss]hares? of", option.meaning) else "")
        meaning = option.meaning
        if option.inner is not None and (block := block_with(option.inner)):
            meaning += f" Its keys are those of [{block}](#{_anchor(block)})."
        cells = (f"`{option.name}`", option.type, default, unit or "-", meaning, code)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def examples(settings: type) -> dict[str, str]:
    """Return a value of every option of ``settings`` as a configuration has it."""
    return {option.name: _example(settings, option) for option in own_options(settings)}


def _example(settings: type, option: Option) -> str:
    """Return a value of an option as a configuration has it: of a shipped one, of the table, or made from its default."""
    if settings is MeterSettings:
        return METER_EXAMPLES[option.name]
    for owner in settings.__mro__:
        if (owner, option.name) in shipped_examples():
            return shipped_examples()[owner, option.name]
    if option.name in EXAMPLES and not (option.name == "latency" and option.type == "true or false"):
        return EXAMPLES[option.name]
    if option.type.startswith("true or false"):
        return "false" if option.default == "true" else "true"
    kinds = option.type.removesuffix(", or null")
    others = [choice for choice in re.split(r", | or ", kinds) if choice != option.default]
    if " or " in kinds and " " not in others[0]:
        return others[0]
    return option.default if option.default != "as below" else "{}"


@cache
def shipped_examples() -> Mapping[tuple[type, str], str]:
    """Return the first short value other than the default that a shipped configuration gives to an option."""
    found: dict[tuple[type, str], str] = {}
    for path in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        data = read_document(path).data
        _collect(Annotated[Any, DATASET], data["task"].get("data"), found)
        _collect(ModelSettings, data["task"].get("model"), found)
        for stage in data["stages"]:
            _collect(Annotated[Any, STAGE], stage, found)
    return found


def _collect(hint: Any, value: Any, found: dict[tuple[type, str], str]) -> None:
    registered = next((mark for mark in get_args(hint) if isinstance(mark, Registered)), None)
    if registered is not None:
        name, _, value = options_of(value)
        hint = registered.find(name).Settings if name else None
    elif isinstance(value, list):
        for entry in value:
            _collect(next(iter(get_args(hint)), None), entry, found)
        return
    elif get_origin(hint) is not None:
        hint = next((kind for kind in get_args(hint) if hasattr(kind, "__pydantic_config__")), None)
    if not isinstance(hint, type) or not hasattr(hint, "__dataclass_fields__") or not isinstance(value, Mapping):
        return
    hints = get_type_hints(hint, include_extras=True)
    defaults = {option.name: option.default for option in own_options(hint)}
    for key, given in value.items():
        if key not in defaults:
            continue
        text = in_yaml(given)
        owner = next(base for base in reversed(hint.__mro__) if key in get_annotations(base))
        if text != defaults[key] and len(text) <= LONGEST_EXAMPLE:
            found.setdefault((owner, key), text)
        _collect(hints[key], given, found)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
