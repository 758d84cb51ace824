from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from evaluators.training.checkpoint import Checkpoint, FileCheckpoint
from evaluators.training.ranks import Ranks
from search.config.loading import Execution
from search.config.registries import EXECUTOR
from search.executors.launched import Launch, LaunchedGroup, Post, serve
from spaces.errors import SecateursError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def posts() -> tuple[Post, Post]:
    """Return the posts of two processes, each with a connection of its own to one store."""
    wait = timedelta(seconds=20)
    here = torch.distributed.TCPStore("127.0.0.1", 0, None, True, wait, wait_for_workers=False)
    there = torch.distributed.TCPStore("127.0.0.1", here.port, None, False, wait, wait_for_workers=False)
    return Post(Launch(0, 2, 0, True), here), Post(Launch(1, 2, 1, True), there)


def test_the_place_is_that_of_the_environment() -> None:
    assert Launch.of(TORCHRUN) == Launch(1, 2, 1, True)
    assert Launch.of({**TORCHRUN, "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}) == Launch(1, 2, 0, False)
    assert Launch.of({**TORCHRUN, "WORLD_SIZE": "1"}) is None
    assert Launch.of({"RANK": "1", "WORLD_SIZE": "2"}) is None


def test_a_process_waits_without_using_a_core_and_gets_messages_of_any_length() -> None:
    (post, other), content, found = posts(), bytes(range(256)) * 40_000, list[Any]()

    def wait() -> None:
        began = time.thread_time()
        received = other.take("message", timedelta(seconds=20))
        found.extend([received, time.thread_time() - began])

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.6)
    post.put("message", content)
    waiting.join(20)
    assert found[0] == content
    assert found[1] < 0.3


class Refusing:
    """Work that can't be made in another process."""

    def __init__(self, thread: int) -> None:
        self.thread = thread

    def __call__(self) -> Refusing:
        if threading.get_ident() != self.thread:
            raise SecateursError("no data here")
        return self

    on_accelerator = False

    def work(self, order: Any, checkpoint: Checkpoint, ranks: Ranks, on_epoch: Any) -> None:
        raise AssertionError


def test_what_another_process_refuses_ends_the_training_and_nothing_else(tmp_path: Path) -> None:
    post, second = posts()
    other = threading.Thread(target=serve, args=(second,))
    other.start()
    group = LaunchedGroup(post, Execution(executor=EXECUTOR.parse("serial"), training_workers=2))
    for _ in range(2):
        with pytest.raises(SecateursError, match="process 1 of 2: .*no data here"):
            group.train(Refusing(threading.get_ident()), FileCheckpoint(tmp_path / "state.safetensors"))
    post.end()
    other.join(20)
    assert not other.is_alive()
