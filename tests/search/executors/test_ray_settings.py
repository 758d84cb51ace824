"""What a configuration may say about Ray, without a cluster."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.config import load
from search.config.document import ConfigError
from search.executors.base import Evaluate, Workload
from search.executors.ray import RayExecutor
from search.executors.ray_cluster import ClusterError, Share, connect, describe, room
from search.executors.ray_settings import RaySettings

CONFIG = """\
name: r
task:
  model: {factory: spaces.networks.digits_cnn}
  data: {name: digits, search_size: 300}
stages:
  - train: {epochs: 1}
"""


def written(folder: Path) -> Path:
    path = folder / "r.yaml"
    path.write_text(CONFIG)
    return path


def test_everything_of_the_execution_block_is_read_and_written_again(tmp_path: Path) -> None:
    overrides = ["executor=ray", "workers=2", "gpus_per_trial=0.25", "address=10.0.0.1:6379", "retries=1", "asynchronous=true"]
    config = load(written(tmp_path), [f"execution.{override}" for override in overrides])
    assert config.execution.executor.name == "ray"
    assert config.execution.executor.settings == RaySettings(2, None, 0.25, "10.0.0.1:6379", 1)
    assert config.execution.asynchronous is True
    canonical = config.canonical()["execution"]
    assert (canonical["executor"], canonical["workers"], canonical["asynchronous"]) == ("ray", 2, True)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("workers=0", "workers: expected at least 1"),
        ("cpus_per_trial=0", "cpus_per_trial: expected a number above 0"),
        ("cpus_per_trial=1.5", "cpus_per_trial: expected a whole number above 1"),
        ("gpus_per_trial=-1", "gpus_per_trial: expected 0 or more"),
        ("address=somewhere", "address: expected null, auto or host:port"),
        ("address=ray://host:10001", "address: expected null, auto or host:port"),
        ("retries=-1", "retries: expected 0 or more"),
        ("worker=2", "did you mean 'workers'?"),
        ("asynchronous=2", "asynchronous: expected true or false"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path), ["execution.executor=ray", f"execution.{override}"])
    assert expected in str(caught.value)


def test_a_worker_has_a_cpu_for_each_thread_unless_told_otherwise() -> None:
    assert Share.of(RaySettings(), threads=3) == Share(3.0, 0.0)
    assert Share.of(RaySettings(cpus_per_trial=0.5, gpus_per_trial=0.25), threads=3) == Share(0.5, 0.25)


def test_as_many_workers_as_their_shares_of_cpus_and_gpus_fit_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert room(Share(cpus=1.0, gpus=0.25)) == 4 + 3
    assert room(Share(cpus=0.1, gpus=0.1)) == 10 + 20
    assert room(Share(cpus=2.0, gpus=0.0)) == 4 + 1 + 32
    assert describe() == "3 nodes with 75 CPUs and 3 GPUs"


@pytest.mark.parametrize("share", [None, 1e-4])
def test_ten_thousand_workers_on_one_machine_are_refused_before_any_starts(
    share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("ray.init", None)
    settings = RaySettings(workers=10_000, cpus_per_trial=share)
    for ask in (lambda: RayExecutor.check(settings, threads=1), lambda: connect(settings, Share.of(settings, 1))):
        with pytest.raises(ClusterError, match=r"workers: 10,000 workers do not fit on this machine.*4 CPUs.*at most"):
            ask()


def test_a_node_carries_so_many_workers_by_its_cpus_and_memory_however_small_their_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "memory": memory}} for memory in (2.0**40, 2.0**30)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert room(Share(cpus=1e-4, gpus=0.0)) == 4 * 64 + 8


def test_a_gpu_that_no_worker_has_a_share_of_is_an_error() -> None:
    def pack(device: str) -> Evaluate:
        raise AssertionError(device)

    workload = Workload(pack, pack, device="cuda:0")  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="execution.gpus_per_trial, such as 1"):
        RayExecutor(workload, RaySettings())


def test_reading_a_configuration_and_the_worker_itself_load_neither_ray_nor_torch() -> None:
    code = "import sys, search.executors.ray, search.executors.ray_worker; print({'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"secateurs\[ray\].*executor=serial"):
        RayExecutor.check(RaySettings(), threads=1)


@pytest.mark.parametrize("stale", [False, True])
def test_an_address_where_nobody_listens_is_an_error_within_seconds(stale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    settings = RaySettings(address="auto" if stale else nobody)
    if stale:
        monkeypatch.setenv("RAY_ADDRESS", nobody)
    started = time.monotonic()
    with pytest.raises(ClusterError, match=rf"execution.address {settings.address}: .*nobody listens at .*Connection refused"):
        connect(settings, Share.of(settings, threads=1))
    assert time.monotonic() - started < 60.0  # Ray alone takes twice as long, and then ends the process.


def test_no_cluster_found_by_auto_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._private.services as services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", functools.cache(lambda *_: set()))
    monkeypatch.setattr(services, "find_bootstrap_address", lambda *_: None)
    with pytest.raises(ClusterError, match="execution.address auto: .*Start one with `ray start --head`"):
        connect(RaySettings(address="auto"), Share(1.0, 0.0))
