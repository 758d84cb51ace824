"""Another run's folder, from which finished steps are taken over as copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from search.config.document import parse_value, to_yaml
from search.output.log_records import PACKAGE
from search.run.differences import Difference, differences
from search.run.network import transformed
from search.run.record_file import RecordFile, Tell, checked
from search.run.run_records import CONFIG, ENVIRONMENT, FORMAT, Environment, RunFolderError, read_config
from search.run.search_tables import LATENCY
from search.run.stage_run import SECONDS, Stopwatch
from search.run.steps import ASYNCHRONOUS, MOMENT, StageStep, StepData
from search.trust.architecture import check_transformations
from search.trust.known_code import is_known
from search.trust.shapes import Header, changed, read_header, require_same_shapes
from spaces.cloning.plain_network import without_wrappers
from spaces.files.atomic import replace_file
from spaces.files.json_file import read_record, write_record
from spaces.files.reading import DamagedFileError, FileError, opened
from spaces.files.tensor_file import pack_tensors, unpack_tensors

if TYPE_CHECKING:
    from evaluators.task import Task

ORIGIN = "reused.json"
"""File of a step that was taken over from another run."""

KEPT_BESIDE = (LATENCY,)
"""Tables that all variants of a search read, beside their folders."""


class Origin(TypedDict):
    """Content of ``reused.json``: the run that computed the step."""

    name: str
    run_id: str


class EarlierRun:
    """A folder of another run, which is only read. It may be somebody else's: nothing that it names is built or run.

    Args:
        folder: The run folder.
        as_recorded: Returns the configuration of the run that takes over, as plain data in the form of a recorded one.
        task_fingerprint: Hash of that run's model and data.
        tell: Takes a line about something lost.

    Attributes:
        folder: The run folder.
        name: Name of its run.
        own: The configuration of the run that takes over, in the form of this run's record.
        reason: The first field that keeps every step from being taken over, in words; empty where there is none.

    Raises:
        RunFolderError: It is no folder of a run, one of an earlier version, or its two records are damaged.
    """

    def __init__(
        self,
        folder: Path,
        as_recorded: Callable[[Mapping[str, Any]], dict[str, Any]],
        task_fingerprint: str,
        tell: Tell = PACKAGE.warning,
    ) -> None:
        self.folder, self._tell = folder, tell
        try:
            self._config = read_config(folder / CONFIG)
            recorded = checked(read_record(folder / ENVIRONMENT), Environment, str(folder / ENVIRONMENT))
        except (FileNotFoundError, NotADirectoryError) as error:
            reason = f"{folder} is no folder of a run ({error.filename} is missing)"
            raise RunFolderError(f"{reason}: --from expects one, such as runs/NAME") from None
        except FileError as error:
            raise self._refused(error) from None
        if recorded["format"] != FORMAT:
            raise RunFolderError(f"{folder} was made by an earlier version: --from expects the folder of a run of this one")
        self.name, self._run_id = str(self._config.get("name")), recorded["run_id"]
        self.own: dict[str, Any] = parse_value(to_yaml(as_recorded(self._config)))
        self.reason = self._difference(recorded["task_fingerprint"], task_fingerprint)

    def _difference(self, theirs: str, own: str) -> str:
        for field in ("seed", "task"):
            for found in differences({field: self._config.get(field)}, {field: self.own.get(field)}):
                return str(found)
        if theirs != own:
            return "task: it was made with another model or other data (the content of task.data, a checkpoint or the model)"
        return ""

    @property
    def begun_here(self) -> bool:
        """True if this account has begun the run on this machine, so that its figures can be believed."""
        return is_known(self.folder, self._config)

    def changes(self, index: int) -> Iterator[Difference]:
        """Yield the fields in which the stages up to the place ``index`` differ from the other run's."""
        theirs, own = (list(config.get("stages") or [])[: index + 1] for config in (self._config, self.own))
        for place in range(max(len(theirs), len(own))):
            first, second = (stages[place] if place < len(stages) else None for stages in (theirs, own))
            yield from differences(first, second, ("stages", str(place)))

    def has(self, label: str, variant: str, key: str, asynchronous: bool | None) -> bool:
        """Return True if a step is done there, with the same settings and inputs.

        Args:
            label: Place and name of the stage.
            variant: ``result``, or the baseline.
            key: Hash of everything that the step's network depends on, in the form of this run's record.
            asynchronous: The mode of a search, which its marker must have, too; None for another stage.

        Raises:
            RunFolderError: A file of the step is damaged; the message begins with its path.
        """
        if self.reason:
            return False
        step = StageStep(self._folder(label, variant), key, self._tell)
        if asynchronous is not None and (step.folder / ASYNCHRONOUS).exists() != asynchronous:
            return False
        try:
            return step.holds()
        except FileError as error:
            raise self._refused(error) from None

    def seconds(self, label: str, variant: str) -> float:
        """Return the wall-clock seconds that a step took."""
        return Stopwatch.read(self._folder(label, variant) / SECONDS, self._tell)

    def take(self, step: StageStep, label: str, variant: str, task: Task) -> None:
        """Copy a step that :meth:`has` has found, its network last, so that a kill leaves it undone.

        Args:
            step: The step of the run that takes over, opened.
            label: Place and name of the stage.
            variant: ``result``, or the baseline.
            task: The task of the run that takes over, whose network the weights must fit.

        Raises:
            RunFolderError: A file of it is damaged, or does not fit the task's network; the message begins with its path.
        """
        there = StageStep(self._folder(label, variant), step.key, self._tell)
        try:
            content = _fitting(there.path, task, step.key)
            for name in KEPT_BESIDE:
                beside, own = there.folder.parent / name, step.folder.parent / name
                if beside.exists() and not own.exists():
                    write_record(own, read_record(beside))
        except (FileError, OSError) as error:
            raise self._refused(error) from None
        write_record(step.folder / SECONDS, {"seconds": self.seconds(label, variant)})
        write_record(step.folder / ORIGIN, Origin(name=self.name, run_id=self._run_id))
        if (there.folder / ASYNCHRONOUS).exists():
            replace_file(step.folder / ASYNCHRONOUS, b"")
        replace_file(step.path, content)

    def _folder(self, label: str, variant: str) -> Path:
        return self.folder / "checkpoints" / label / variant

    def _refused(self, error: Exception) -> RunFolderError:
        return RunFolderError(
            f"{error}. Nothing of a damaged piece is taken over: go on with the run in {self.folder}, which makes it again"
        )


def origin_of(folder: Path, tell: Tell) -> str:
    """Return the name of the run that a step was taken over from; empty for one that was computed here."""
    found = RecordFile(folder / ORIGIN, Origin, "its origin is not told", tell).read()
    return "" if found is None else found["name"]


def _fitting(path: Path, task: Task, key: str) -> bytes:
    """Return the bytes of a step's network, once its records are of known kinds and its shapes those of the task's network.

    The key inside becomes that of the run that takes over: it is another one where the record lacks an option.

    Raises:
        FileError: They are not.
        OSError: It can't be opened.
    """
    name = str(path)
    with opened(path) as file:
        header = read_header(file, name)
        content = file.read()
    tensors, data = unpack_tensors(content, name)
    step: StepData = checked(data, StepData, name)
    check_transformations(step["transformations"], name)
    try:
        model = changed(without_wrappers(task.build()), partial(transformed, transformations=step["transformations"]))
    except FileError as error:
        raise FileError(f"{name}: {error}") from error
    weights = {key: shape for key, shape in header.shapes.items() if not key.startswith(MOMENT)}
    require_same_shapes(model, replace(header, shapes=weights), name)
    _require_moments(header, weights, name)
    return content if step.get("key", key) == key else pack_tensors(tensors, {**data, "key": key})


def _require_moments(header: Header, weights: Mapping[str, tuple[int, ...]], name: str) -> None:
    for key, shape in header.shapes.items():
        if key.startswith(MOMENT) and weights.get(key.removeprefix(MOMENT)) != shape:
            raise DamagedFileError(f"{name}: {key} has shape {shape}, which is that of no weight of this name")
