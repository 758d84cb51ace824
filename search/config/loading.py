"""Load the configuration of a run: one YAML file, with every mistake shown at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from search.config.block import Block, Limit, ScoreLimit
from search.config.consistency import check_consistency
from search.config.document import ConfigError, Document, Fault, read_document
from search.config.overrides import apply_overrides
from search.config.registries import EXECUTOR, STAGE, TrackerBlock
from search.config.schema import validate
from search.config.storage_url import StorageUrl
from search.config.task_config import has_own_scores, read_task
from spaces.errors import SecateursError
from spaces.registry import suggestion

if TYPE_CHECKING:
    from evaluators.task import Task


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,4})?", text):
        raise ValueError(f"expected auto, cpu, mps, cuda, or one of several such as cuda:1, got {text!r}")
    return text


def _folder_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        expected = "up to 100 letters, digits and . _ - that begin with a letter or a digit, since it names the run's folder"
        raise ValueError(f"expected {expected}; got {text!r}")
    return text


class Execution(BaseModel):
    """Place and manner of evaluating trials; only ``asynchronous`` changes the result of a search.

    Attributes:
        executor: The executor, with its settings.
        threads_per_trial: Torch threads of a trial, and of training.
        device: ``auto``, or a torch device such as ``cpu`` or ``cuda:0``.
        training_workers: Processes that train a network together, each on its part of every batch: on the cluster, or with
            the serial executor on one of this machine alone. Candidates that train do so one after the other.
        gpus_per_training_worker: GPUs that Ray sets aside for each; null for ``gpus_per_trial``.
        training_timeout: Seconds that a training worker may be silent before all of them are ended and start again from the
            last epoch.
        retries: How often a trial is evaluated again, or a group of training workers started again, after a loss.
        asynchronous: Whether proposals are asked for whenever a worker is free, and told as they are finished: nobody waits
            for a straggler, and the same run twice may find different networks.
        trackers: Trackers that are told of the run while it goes on, each with its settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    executor: Block
    threads_per_trial: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Annotated[str, AfterValidator(_device)] = "auto"
    training_workers: Annotated[int, Field(ge=1, le=4096)] = 1
    gpus_per_training_worker: Annotated[float, Field(ge=0.0)] | None = None
    training_timeout: Annotated[float, Field(ge=1.0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 2
    asynchronous: bool = False
    trackers: tuple[TrackerBlock, ...] = ()


class Config(BaseModel):
    """A validated configuration.

    Attributes:
        name: Name of the run and of its folder.
        seed: Seed of all randomness in the run, in [0, 2**32).
        task: Settings of the task; :meth:`build_task` makes it. Or the task itself, where a program has it.
        execution: Where and how trials are evaluated.
        storage: Database that trials are recorded in; None for a journal in the run folder.
        stages: The pipeline, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: Annotated[str, AfterValidator(_folder_name)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    task: Any
    execution: Execution
    storage: StorageUrl | None = None
    stages: Annotated[tuple[Block, ...], Field(min_length=1)]

    @property
    def given_task(self) -> Task | None:
        """The task that a program gave; None where a file describes it."""
        from evaluators.task import Task

        return self.task if isinstance(self.task, Task) else None

    def build_task(self) -> Task:
        """Return the task: the built-in one, or one of the user's own class.

        Raises:
            SecateursError: Its data or its model cannot be had.
        """
        from evaluators.tasks.settings import build_task

        return build_task(self.task)

    def canonical(self) -> dict[str, Any]:
        """Return the whole configuration, defaults filled in, as plain data that :func:`load` reads to the same.

        Of a task that a program gave there is its class alone.
        """
        given, task = self.given_task, _plain(self.task)
        if given is not None:
            task = {"class": f"{type(self.task).__module__}.{type(self.task).__qualname__}", "arguments": {}}
            length = given.cost_length
        elif "path" in task:
            task = {"class": task["path"], "arguments": task["arguments"]}
            length = self.task.length
        else:
            length = None
            if "settings" in task["data"]:
                task["data"] = {"name": task["data"]["name"], **task["data"]["settings"]}
            for key in ("score", "loss"):
                if task[key] is None:
                    del task[key]
        task |= {} if length is None else {"length": length}
        execution = {
            "executor": self.execution.executor.name,
            **_plain(self.execution.executor.settings),
            "threads_per_trial": self.execution.threads_per_trial,
            "device": self.execution.device,
            "training_workers": self.execution.training_workers,
            "gpus_per_training_worker": self.execution.gpus_per_training_worker,
            "training_timeout": self.execution.training_timeout,
            "retries": self.execution.retries,
            "asynchronous": self.execution.asynchronous,
            "trackers": [_plain(tracker) for tracker in self.execution.trackers],
        }
        stages = [{stage.name: _plain(stage.settings)} for stage in self.stages]
        storage = None if self.storage is None else str(self.storage)
        return {
            "name": self.name,
            "seed": self.seed,
            "task": task,
            "execution": execution,
            "storage": storage,
            "stages": stages,
        }


def load(path: str | FilePath, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration.

    Args:
        path: The YAML file.
        overrides: ``key=value`` texts, as :func:`search.config.overrides.apply_overrides` takes them.

    Raises:
        ConfigError: The file or an override is wrong; the message lists every mistake with its place.
    """
    document = read_document(FilePath(path))
    faults = apply_overrides(document, overrides)
    config, found = _build(document)
    faults.extend(found)
    if faults or config is None:
        raise ConfigError(document.source, sorted(faults, key=_line_number))
    return config


def configure(data: Mapping[str, Any], task: Task) -> Config:
    """Check a configuration that a program has made.

    Args:
        data: What a file would say, but for ``task``.
        task: The task.

    Raises:
        ConfigError: Something is wrong; the message lists every mistake with its place.
    """
    document = Document("configuration", dict(data))
    config, faults = _build(document, task)
    if faults or config is None:
        raise ConfigError(document.source, faults)
    return config


def read_back(config: Config, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return plain data as the whole configuration that it reads to, or None where something of it is wrong.

    Args:
        config: The configuration that ``data`` comes from; its task is taken where a program gave it.
        data: What a file would say.
    """
    given = config.given_task
    document = Document("configuration", {name: value for name, value in data.items() if name != "task" or given is None})
    found, faults = _build(document, given)
    return None if faults or found is None else found.canonical()


def _build(document: Document, given: Task | None = None) -> tuple[Config | None, list[Fault]]:
    data = document.data
    known = Config.model_fields
    faults = [document.fault((key,), f"unknown key; {suggestion(key, known)}") for key in data if key not in known]
    required = [key for key in ("name", "task", "stages") if data.get(key) is None and not (key == "task" and given)]
    faults.extend(document.fault((key,), "is missing, and has no default") for key in required)
    for key in ("name", "seed"):
        if data.get(key) is not None:
            _, found = validate(_hint(Config, key), data[key], document, (key,))
            faults.extend(found)
    task, found = read_task(document) if data.get("task") is not None else (given, [])
    faults.extend(found)
    execution, found = _execution(document)
    faults.extend(found)
    storage, found = _storage(document)
    faults.extend(found)
    stages, found = _stages(document) if data.get("stages") is not None else ([], [])
    faults.extend(found)
    faults.extend(check_consistency(document, stages, given is not None or has_own_scores(data.get("task"))))
    if faults:
        return None, faults
    seed = data["seed"] if data.get("seed") is not None else 0
    valid = tuple(_passes([stage for stage in stages if stage is not None]))
    config = Config(name=data["name"], seed=seed, task=task, execution=execution, storage=storage, stages=valid)
    return config, faults


def _storage(document: Document) -> tuple[StorageUrl | None, list[Fault]]:
    value = document.data.get("storage")
    if value is None or isinstance(value, str):
        return (StorageUrl(value) if value else None), []
    message = f"expected the URL of a database such as sqlite:///study.db, got {type(value).__name__}"
    return None, [document.fault(("storage",), message)]


def _execution(document: Document) -> tuple[Execution | None, list[Fault]]:
    value, path = document.data.get("execution"), ("execution",)
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        return None, [document.fault(path, f"expected a mapping such as {{executor: serial}}, got {value!r}")]
    name = value.get("executor", "serial")
    own_keys = [key for key in Execution.model_fields if key != "executor"]
    own = {key: value[key] for key in own_keys if key in value}
    rest = {key: option for key, option in value.items() if key not in own_keys and key != "executor"}
    faults: list[Fault] = []
    for key, given in own.items():
        faults.extend(validate(_hint(Execution, key), given, document, (*path, key))[1])
    if not isinstance(name, str):
        return None, [*faults, document.fault((*path, "executor"), f"expected the name of an executor, got {name!r}")]
    try:
        hint = EXECUTOR.find(name).Settings
    except SecateursError as error:
        return None, [*faults, document.fault((*path, "executor"), str(error))]
    known = [entry.name for entry in fields(hint)]
    # A key of both is the executor's too.
    rest |= {key: value[key] for key in known if key in own}
    for key in rest.keys() - set(known):
        words = suggestion(key, ["executor", *known, *own_keys])
        faults.append(document.fault((*path, key), f"unknown key; {words}"))
    settings, found = validate(hint, {key: rest[key] for key in known if key in rest}, document, path)
    faults.extend(found)
    return (None if faults else Execution(executor=Block(name, settings), **own)), faults


def _hint(model: type[BaseModel], key: str) -> Any:
    """Return the annotation of a field, its bounds included."""
    field = model.model_fields[key]
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _stages(document: Document) -> tuple[list[Block | None], list[Fault]]:
    """Return one block per stage, None for a faulty one, and all faults."""
    value, path = document.data["stages"], ("stages",)
    if not isinstance(value, list) or not value:
        return [], [document.fault(path, "expected a list of stages, such as [train: {epochs: 10}, ...]")]
    blocks: list[Block | None] = []
    faults: list[Fault] = []
    for index, entry in enumerate(value):
        place = (*path, index)
        found: list[Fault] = []
        block: Block | None = None
        if isinstance(entry, Mapping) and len(entry) != 1:
            keys = ", ".join(map(str, entry)) or "none"
            message = f"expected one stage name with its settings indented below it, got keys: {keys}"
            found = [document.fault(place, message)]
        else:
            block, found = validate(Annotated[Block, STAGE], entry, document, place)
        blocks.append(block)
        faults.extend(found)
    return blocks, faults


def _passes(stages: Sequence[Block]) -> Iterator[Block]:
    """Yield the stages, each that stands for several as these, with the training between them."""
    for index, block in enumerate(stages):
        stage = STAGE.build(block)
        *earlier, last = stage.passes
        for settings in earlier:
            yield Block(block.name, settings)
            if stage.trains_between:
                yield stages[index + 1]
        yield Block(block.name, last)


def _plain(value: Any) -> Any:
    """Return settings as plain data in the form in which a file gives them."""
    if isinstance(value, Block):
        return {"name": value.name, **_plain(value.settings)}
    if isinstance(value, Limit | ScoreLimit):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value) if entry.init}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, FilePath) else value


def _line_number(fault: Fault) -> int:
    found = re.match(r"line (\d+)$", fault.origin)
    return int(found[1]) if found else 0
