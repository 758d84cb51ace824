"""One of the processes that train a network together: an actor on the cluster."""

from __future__ import annotations

import os
import queue
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from search.executors.driver_place import take_over
from search.executors.ray_worker import SentCheckpoint, TrainedSoFar
from spaces.errors import SecateursError, error_line

if TYPE_CHECKING:
    from evaluators.training.checkpoint import Checkpoint
    from evaluators.training.ranks import Ranks
    from evaluators.training.state import EpochRecord


class Work(Protocol):
    """Training in one of its processes."""

    @property
    def on_accelerator(self) -> bool:
        """True for a training on CUDA devices."""

    def __call__(self, order: Any, checkpoint: Checkpoint, ranks: Ranks, on_epoch: Callable[[EpochRecord], None]) -> Any:
        """Train, and return what the driver wants of it."""


@dataclass(frozen=True)
class Alive:
    """Sign of life of the first rank while nothing else is told."""


@dataclass(frozen=True)
class Refused:
    """Mistake of a person's, which another try would meet again."""

    error: SecateursError


@dataclass(frozen=True)
class Failed:
    """Failure of a process, such as a neighbour that is lost, in words."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """Result of the training, of the first rank; None of the others."""

    result: Any


class TrainingRank:
    """Process of a training. Imports nothing heavy itself: its work comes from a factory that is sent to it.

    Args:
        folder: The driver's working folder, in which relative paths are looked for, where this machine has it.
        paths: The driver's import paths, for modules of the user's own.
    """

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        take_over(folder, paths)
        # The thread of the training; this one hands out what it tells, and shows that the process is alive.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._work: Work | None = None
        self._listening: socket.socket | None = None

    def prepare(self, factory: Callable[[], Work]) -> Refused | int:
        """Load network and data, and return the number of this process, or what a person did wrong."""
        try:
            self._work = self._thread.submit(factory).result()
        except SecateursError as error:
            return Refused(error)
        return os.getpid()

    def listen(self) -> tuple[str, int]:
        """Return the address at which this process, the first rank, meets the others: on its node's own interface alone."""
        import ray

        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listening.bind((host, 0))
        self._listening.listen()
        return host, int(self._listening.getsockname()[1])

    def run(
        self, rank: int, size: int, place: tuple[str, int], order: Any, trained: bytes | None, timeout: float
    ) -> Iterator[Alive | TrainedSoFar | EpochRecord | Refused | Failed | Ended]:
        """Train, and yield what the first rank saves and tells, signs of life, and the end.

        Args:
            rank: Number of this process, from 0.
            size: Number of processes.
            place: Address at which the first one listens.
            order: What to do, where one work does several things.
            trained: The training so far, packed.
            timeout: Seconds that the others may be silent.
        """
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        done = self._thread.submit(self._train, rank, size, place, order, trained, timeout, told.put)
        done.add_done_callback(lambda _: told.put(None))
        while True:
            try:
                message = told.get(timeout=timeout / 4)
            except queue.Empty:
                yield Alive()
                continue
            if message is None:
                break
            yield message
        try:
            yield done.result()
        except Exception as error:
            yield Failed(error_line(error).partition("\n")[0])

    def _train(
        self,
        rank: int,
        size: int,
        place: tuple[str, int],
        order: Any,
        trained: bytes | None,
        timeout: float,
        tell: Callable[[str], None],
    ) -> Refused | Ended:
        from datetime import timedelta

        import torch.distributed

        if self._work is None:
            raise RuntimeError("run was called before prepare")
        host, port = place
        if host.startswith("127.") or host == "::1":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        # Without a socket of its own the store would listen on every interface.
        listening = None if self._listening is None else self._listening.detach()
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host, port, size, rank == 0, timedelta(seconds=timeout), master_listen_fd=listening
        )
        told: Callable[[Any], None] = tell if rank == 0 else lambda _: None
        return take_part(self._work, order, SentCheckpoint(0, trained, told), rank, size, store, timeout, told)


def take_part(
    work: Work,
    order: Any,
    checkpoint: Checkpoint,
    rank: int,
    size: int,
    store: Any,
    timeout: float,
    on_epoch: Callable[[Any], None],
) -> Refused | Ended:
    """Train as one of several processes.

    Args:
        work: The training.
        order: What to do, where one work does several things.
        checkpoint: The training so far, the same for all.
        rank: Number of this process, from 0.
        size: Number of processes.
        store: Store of torch's by which they find each other.
        timeout: Seconds that the others may be silent.
        on_epoch: Called with the record of every new epoch.

    Raises:
        RuntimeError: One of the others is lost or silent.
    """
    from datetime import timedelta

    import torch
    import torch.distributed

    from evaluators.training.ranks import Ranks

    backend = "nccl" if torch.cuda.is_available() and work.on_accelerator else "gloo"
    wait = timedelta(seconds=timeout)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    try:
        result = work(order, checkpoint, Ranks(rank, size), on_epoch)
        # Nobody leaves while another one still waits for what it sends.
        torch.distributed.barrier()
    except SecateursError as error:
        return Refused(error)
    finally:
        torch.distributed.destroy_process_group()
    return Ended(result if rank == 0 else None)
