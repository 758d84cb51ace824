"""Processes that torchrun has started: the first one searches, and the others take part in what it trains."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.executors.driver_place import import_paths, take_over
from search.executors.ray_worker import SentCheckpoint
from search.executors.training_group import PREPARE_SECONDS, LostGroupError, PackedWork, TrainingGroup
from search.executors.training_rank import Refused, Work, take_part
from spaces.errors import SecateursError, error_line

if TYPE_CHECKING:
    from evaluators.training.checkpoint import FileCheckpoint
    from search.config.loading import Execution

PART = 4 * 2**20
"""Bytes of one entry of torch's store, which takes no more than 8 MiB."""

FOREVER = timedelta(days=365)


@dataclass(frozen=True)
class Launch:
    """Place of this process among those that torchrun has started.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        local: Number of this process among those of its machine.
        alone: True where all of them are on this machine.
    """

    rank: int
    size: int
    local: int
    alone: bool

    @staticmethod
    def of(environment: Mapping[str, str]) -> Launch | None:
        """Return the place that torchrun has written into the environment; None where it has started no others."""
        if "TORCHELASTIC_RUN_ID" not in environment or int(environment.get("WORLD_SIZE", "1")) < 2:
            return None
        size = int(environment["WORLD_SIZE"])
        alone = int(environment.get("LOCAL_WORLD_SIZE", "0")) == size
        return Launch(int(environment["RANK"]), size, int(environment.get("LOCAL_RANK", "0")), alone)


@dataclass
class Post:
    """Messages from the first process to the others, over the store that torchrun has them meet at.

    Attributes:
        launch: Place of this process.
        store: The store.
        sent: Number of messages so far.
    """

    launch: Launch
    store: Any
    sent: int = 0
    _factories: list[Callable[[], Any]] = field(default_factory=list)

    def factory_number(self, factory: Callable[[], Any]) -> int:
        """Return the number of a factory, which is sent the first time."""
        if not self._factories or self._factories[-1] is not factory:
            self._factories.append(factory)
            self.put(f"factory {len(self._factories)}", _packed(factory))
        return len(self._factories)

    def put(self, key: str, content: bytes) -> None:
        """Write bytes of any length; the number of parts comes last, and is waited for."""
        parts = [content[start : start + PART] for start in range(0, len(content), PART)]
        for place, part in enumerate(parts):
            self.store.set(f"{key} part {place}", part)
        self.store.set(key, str(len(parts)))

    def take(self, key: str, timeout: timedelta = FOREVER) -> bytes:
        """Wait for bytes, without using a core, and return them."""
        self.store.wait([key], timeout)
        return b"".join(self.store.get(f"{key} part {place}") for place in range(int(self.store.get(key))))

    def forget(self, key: str) -> None:
        """Remove bytes that nobody reads any more."""
        for place in range(int(self.store.get(key))):
            self.store.delete_key(f"{key} part {place}")

    def end(self) -> None:
        """Let the others end."""
        self.sent += 1
        self.put(f"message {self.sent}", _packed(None))


@cache
def launched() -> Post | None:
    """Return this process's post among those that torchrun has started; None where it was started alone."""
    launch = Launch.of(os.environ)
    if launch is None:
        return None
    import torch
    import torch.distributed

    if launch.alone:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local)
    store, _, _ = next(torch.distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    return Post(launch, _part_of(store, "secateurs"))


class LaunchedGroup(TrainingGroup):
    """The processes that torchrun has started, this one the first.

    One that is lost ends the others: torchrun starts them again where it is told to (``--max-restarts``), and the same command
    goes on from the last epoch.

    Args:
        post: The post of this process.
        execution: Patience of the processes.
    """

    def __init__(self, post: Post, execution: Execution) -> None:
        self._post = post
        self._execution = execution
        self._prepared: tuple[Callable[[], Any], Work] | None = None

    def train(
        self,
        factory: PackedWork,
        checkpoint: FileCheckpoint,
        on_epoch: Callable[[Any], None] = lambda record: None,
        order: Any = None,
    ) -> Any:
        """Return what this process returns; see :meth:`.TrainingGroup.train`.

        Raises:
            LostGroupError: One of the others is lost or silent.
        """
        post, timeout = self._post, self._execution.training_timeout
        number = post.factory_number(factory)
        post.sent += 1
        turn = post.sent
        message = _Training(number, order, checkpoint.packed(), timeout, str(Path.cwd()), tuple(import_paths()))
        post.put(f"message {turn}", _packed(message))
        if self._prepared is None or self._prepared[0] is not factory:
            self._prepared = factory, factory()
        try:
            for rank in range(1, post.launch.size):
                if said := post.take(f"ready {turn} {rank}", timedelta(seconds=PREPARE_SECONDS)).decode():
                    raise SecateursError(f"process {rank} of {post.launch.size}: {said}")
            post.put(f"go {turn}", b"")
            store = _part_of(post.store, f"training {turn}")
            ended = take_part(self._prepared[1], order, checkpoint, 0, post.launch.size, store, timeout, on_epoch)
        except RuntimeError as error:
            raise LostGroupError(
                f"training in {post.launch.size} processes of torchrun: one is lost or silent ({error_line(error)}); the same "
                "command goes on from the last epoch"
            ) from error
        post.forget(f"message {turn}")
        if isinstance(ended, Refused):
            raise ended.error
        return ended.result


@dataclass(frozen=True)
class _Training:
    """A training that the first process asks the others to take part in.

    Attributes:
        factory: Number of the factory of the work.
        order: What to do, where one work does several things.
        trained: The training so far, packed.
        timeout: Seconds that another process may be silent.
        folder: The first process's working folder.
        paths: Its import paths.
    """

    factory: int
    order: Any
    trained: bytes | None
    timeout: float
    folder: str
    paths: tuple[str, ...]


def serve(post: Post) -> None:
    """Take part in every training that the first process asks for, until it has ended; wait without using a core.

    Raises:
        RuntimeError: Another process is lost or silent.
    """
    work: tuple[int, Work] | None = None
    while True:
        post.sent += 1
        turn, launch = post.sent, post.launch
        asked: _Training | None = _unpacked(post.take(f"message {turn}"))
        if asked is None:
            return
        take_over(asked.folder, asked.paths)
        refused = ""
        try:
            if work is None or work[0] != asked.factory:
                work = asked.factory, _unpacked(post.take(f"factory {asked.factory}"))()
        except SecateursError as error:
            refused = error_line(error)
        post.put(f"ready {turn} {launch.rank}", refused.encode())
        if refused or work is None:
            continue
        post.take(f"go {turn}")
        store = _part_of(post.store, f"training {turn}")
        checkpoint = SentCheckpoint(0, asked.trained, lambda _: None)
        take_part(work[1], asked.order, checkpoint, launch.rank, launch.size, store, asked.timeout, lambda _: None)


def _part_of(store: Any, name: str) -> Any:
    """Return a store whose keys begin with a name."""
    import torch.distributed

    return torch.distributed.PrefixStore(name, store)  # type: ignore[attr-defined]


def _packed(value: object) -> bytes:
    from cloudpickle import Pickler

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return pickle.loads(content)  # noqa: S301 (from the first process of the same command)
