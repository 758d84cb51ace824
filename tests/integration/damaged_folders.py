"""Damaged run folders by a seeded generator: one file of a whole or half-made folder is hurt, and a command is given."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluators.training.checkpoint import FileCheckpoint
from search.config import load as load_config
from search.export import load
from search.pipeline import run
from search.report.page import render
from search.study.dashboard import find_storage, open_to_look
from search.study.study import Study
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import read_report, timeless

CHANNELS = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - train: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: channel_mask
      algorithm: {name: genetic, population: 6, generations: 2}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 60%"}
      baselines: [uniform]
      batch: 3
      finalists: {count: 2, training: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}}
  - retrain: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
  - export: {formats: [onnx, torch_export]}
"""
BITS = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - train: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: bit_width, weight_bits: [2, 4, 8]}
      algorithm: {name: random, evaluations: 5}
      evaluate: [accuracy, cost, {omega: {sensitivity: fisher, samples: 32}}]
      objectives: {top1: maximize, omega: minimize}
      target: {size_bytes: "<= 20%"}
      batch: 2
  - retrain: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.01}}
"""
SCHEDULE = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - train: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: pruning_schedule, macs: [0.4], largest: [0.2, 0.9]}
      algorithm: {name: optuna, batch: 4, evaluations: 7, startup: 2, halving: {fidelities: [0.25, 0.5]}}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
      training: {epochs: 4, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
      batch: 2
"""
CONFIGS = {"channels": CHANNELS, "bits": BITS, "schedule": SCHEDULE}
UNREAD = (".lock", "log.txt", "report.html", "study.journal.lock", "study.journal.cut")
"""Files that no command reads: what befalls them is no damage."""

REFUSED = "refused"
"""What a command comes to that a half-made folder has nothing for, damaged or not."""


class Stopped(BaseException):
    """The end of a run that is killed."""


@contextmanager
def stopped_after(saves: int | None = None, trials: int | None = None) -> Iterator[None]:
    """Stop a run after so many checkpoints of trainings, or so many recorded trials."""
    left = {"saves": saves, "trials": trials}

    def counted(name: str, original: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            original(*arguments)
            if left[name] is not None:
                left[name] -= 1  # type: ignore[operator]
                if left[name] == 0:
                    raise Stopped

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileCheckpoint, "save", counted("saves", FileCheckpoint.save))
        patch.setattr(Study, "add", counted("trials", Study.add))
        try:
            yield
        except Stopped:
            return
    raise AssertionError("the run ended before it could be stopped")


@dataclass(frozen=True)
class Outcome:
    """What a command on a damaged folder came to.

    Attributes:
        wrong: What is wrong with it, empty if nothing is.
        words: ``same`` and ``told``, ``same``, ``told`` (another result, the file named) or ``refused``; ``traceback``.
    """

    wrong: str
    words: str


class Folders:
    """Whole and half-made run folders, made once, and what their runs come to.

    Args:
        home: Where they are made.
    """

    STATES = ("ended", "ended without report", "training", "searching", "retraining")

    def __init__(self, home: Path) -> None:
        self.home = home
        self._right: dict[str, Any] = {}

    def template(self, config: str, state: str) -> Path:
        """Return the folder of a run in some state; made when it is first asked for."""
        folder = self.home / config / state.replace(" ", "-")
        if folder.exists():
            return folder
        if state == "ended":
            self.command("run", config, folder)
        elif state == "ended without report":
            shutil.copytree(self.template(config, "ended"), folder)
            (folder / "report.json").unlink()
        else:
            last = {"channels": 9, "bits": 4, "schedule": 6}[config]
            stop = {"training": {"saves": 2}, "searching": {"trials": 3}, "retraining": {"saves": last}}[state]
            with stopped_after(**stop):
                self.command("run", config, folder)
        return folder

    def right(self, config: str) -> Any:
        """Return what a run that nothing befell comes to."""
        if config not in self._right:
            self._right[config] = result(self.template(config, "ended"))
        return self._right[config]

    def command(self, name: str, config: str, folder: Path) -> tuple[Any, str]:
        """Give a command, and return what it came to and what it said.

        Raises:
            SecateursError: It was refused.
        """
        said = io.StringIO()
        path = self.home / f"{config}.yaml"
        path.write_text(CONFIGS[config])
        if name == "run":
            with pytest.MonkeyPatch.context() as patch:
                # Pictures take longer than the whole run, and read nothing that `report` does not.
                patch.setattr("search.report.page.is_installed", lambda extra: False)
                run(load_config(path), folder, Console(file=said, width=1000))
            return result(folder), said.getvalue()
        if name == "report":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("search.report.figures.pictures.draw", lambda report: [])
                patch.setattr("search.report.page.PACKAGE.warning", lambda text, *rest: said.write(text % rest))
                return render(folder).read_text(), said.getvalue()
        if name == "load":
            state = load(folder).state_dict()
            return {key: tensor.tolist() for key, tensor in state.items()}, said.getvalue()
        storage = open_to_look(find_storage(folder), lambda text: said.write(text) and None)
        studies = storage.get_all_studies()
        return [
            [str(trial.user_attrs) for trial in storage.get_all_trials(study._study_id)] for study in studies
        ], said.getvalue()


def result(folder: Path) -> Any:
    """Return what a run came to: its report without times, and the files of ``best/`` that hold the network."""
    best = sorted((folder / "best").iterdir())
    return (
        timeless(read_report(folder)),
        {path.name: path.read_bytes() for path in best if path.suffix in (".json", ".safetensors")},
        [path.name for path in best],
    )


def overwritten(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(max(1, len(content) - 8))
    return content[:place] + b"\xff\x00" * 4 + content[place + 8 :]


def flipped(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(max(1, len(content)))
    return content[:place] + bytes(byte ^ 1 << rng.randrange(8) for byte in content[place : place + 1]) + content[place + 1 :]


WAYS: dict[str, Callable[[bytes, random.Random], bytes] | None] = {
    "empty": lambda content, rng: b"",
    "cut": lambda content, rng: content[: rng.randrange(max(1, len(content)))],
    "overwritten": overwritten,
    "flipped": flipped,
    "zeros": lambda content, rng: bytes(len(content)),
    "longer": lambda content, rng: content + rng.randbytes(20),
    "another": lambda content, rng: rng.randbytes(len(content)),
    "gone": None,
}


@dataclass(frozen=True)
class Damage:
    """One damaged folder, and the command that is given on it.

    Attributes:
        config: Name of the configuration.
        state: State of its run.
        file: The file that is hurt, by its path in the folder.
        way: How.
        command: ``run``, ``report``, ``load`` or ``look``.
        seed: Seed of the place of the damage.
    """

    config: str
    state: str
    file: str
    way: str
    command: str
    seed: int

    @property
    def name(self) -> str:
        """The damage in words."""
        return f"{self.config}, {self.state}: {self.file} {self.way} (seed {self.seed}), then {self.command}"

    def apply(self, folder: Path) -> None:
        """Hurt the file in a copy of the folder."""
        path, hurt = folder / self.file, WAYS[self.way]
        if hurt is None:
            path.unlink()
        else:
            path.write_bytes(hurt(path.read_bytes(), random.Random(self.seed)))

    def outcome(self, folders: Folders, place: Path) -> Outcome:
        """Give the command on a damaged copy at ``place``, and compare with what is right."""
        shutil.copytree(folders.template(self.config, self.state), place)
        # Before the damage: a command that only reads is right if it says the same as then.
        expected = folders.right(self.config) if self.command == "run" else self._before(folders, place)
        self.apply(place)
        file = Path(self.file).name
        try:
            found, said = folders.command(self.command, self.config, place)
        except SecateursError as error:
            named = file in str(error) or expected == REFUSED
            return Outcome("" if named else f"refused without the file's name: {error}", "refused")
        except BaseException as error:
            return Outcome(f"{type(error).__name__}: {str(error)[:200]}", "traceback")
        finally:
            shutil.rmtree(place)
        told, same = file in said, found == expected
        wrong = "" if same or told else "another result without a word"
        return Outcome(wrong, " and ".join(word for word, holds in (("same", same), ("told", told)) if holds))

    def _before(self, folders: Folders, place: Path) -> Any:
        try:
            return folders.command(self.command, self.config, place)[0]
        except SecateursError:
            return REFUSED


def damage(folders: Folders, number: int, seed: int = 0) -> Damage:
    """Return one damage, the same for the same numbers."""
    rng = random.Random(f"{seed}/{number}")
    config = rng.choice(sorted(CONFIGS))
    state = rng.choice(folders.STATES)
    template = folders.template(config, state)
    files = [path.relative_to(template) for path in sorted(template.rglob("*")) if path.is_file()]
    chosen = str(rng.choice([path for path in files if path.name not in UNREAD and path.suffix != ".png"]))
    return Damage(config, state, chosen, rng.choice(sorted(WAYS)), _command(chosen, rng), rng.randrange(1000))


def _command(file: str, rng: random.Random) -> str:
    """Return a command that reads the file, most often ``run``."""
    reader = "load" if file.startswith("best/") else "look" if file == "study.journal" else "report"
    reads = file.startswith("best/") or file in ("study.journal", "report.json", "config.yaml", "environment.json")
    return rng.choice(["run", "run", reader]) if reads else "run"
