"""Attach to a Ray cluster or start one that only this machine sees, and count the workers it has room for."""

from __future__ import annotations

import logging
import math
import os
import socket
from dataclasses import dataclass
from typing import Any

from search.config.extras import install_command, is_installed
from search.executors.ray_settings import RaySettings
from spaces.errors import SecateursError, first_line

MOST_PER_CPU, LEAST_BYTES = 64, 2**27
"""Most workers for each CPU, and fewest bytes of memory for each, beyond which a machine does not come to work (ours)."""

START_ATTEMPTS = 3
ANSWER_SECONDS = 5.0


class ClusterError(SecateursError):
    """Ray cluster that is missing, or on which no worker can evaluate trials."""


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs that Ray sets aside for one worker."""

    cpus: float
    gpus: float

    @staticmethod
    def of(settings: RaySettings, threads: int) -> Share:
        """Return the share that the settings ask for."""
        cpus = float(threads) if settings.cpus_per_trial is None else settings.cpus_per_trial
        return Share(cpus, settings.gpus_per_trial)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")


def require_ray() -> None:
    """Raise unless Ray is installed.

    Raises:
        ClusterError: It isn't.
    """
    if not is_installed("ray"):
        raise ClusterError(
            "execution.executor: ray needs the package ray, which is not installed here: "
            f"{install_command(['ray'])}, or set execution.executor=serial"
        )


def require_room_here(settings: RaySettings) -> None:
    """Raise if a cluster of this machine alone has no room for the workers asked for.

    Raises:
        ClusterError: There are more than its CPUs and its memory can carry.
    """
    cpus, memory = os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = _carried(cpus, memory)
    if settings.address is None and (settings.workers or 0) > most:
        raise ClusterError(
            f"execution.workers: {settings.workers:,} workers do not fit on this machine, which has {cpus} CPUs and "
            f"{memory / 2**30:.0f} GiB of memory: expected at most {most}; leave it out for as many as there are CPUs"
        )


def set_environment(settings: RaySettings) -> None:
    """Set what Ray reads when it is imported, so that this comes before every import of it."""
    # Under `uv run`, Ray would send the whole folder to its workers and install anew.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if settings.address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray would run trials as the machine's least urgent work.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # By this, and only by this, the node's address is 127.0.0.1 and every server of it binds to that.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def connect(settings: RaySettings, share: Share) -> bool:
    """Attach this process to the cluster that the settings name, and return True where that was started for it now.

    Without an address a cluster is started that ends with this process. It listens on the loopback interface only, has no
    dashboard, and offers a CPU for each of this machine's, or more where more workers are asked for.

    Raises:
        ClusterError: There is no such cluster.
    """
    require_ray()
    require_room_here(settings)
    set_environment(settings)
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if settings.address is None:
        cpus = max(os.cpu_count() or 1, math.ceil((settings.workers or 0) * share.cpus))
        _start(num_cpus=cpus, include_dashboard=False, **quiet)
        _require_loopback()
        return True
    try:
        ray.init(address=_listening(settings.address), **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"execution.address {settings.address}: there is no Ray cluster to be reached ({first_line(error)}). Start one "
            "with `ray start --head`, give its host:port, or leave execution.address out for a cluster of this machine alone"
        ) from error
    return False


def _listening(address: str) -> str:
    """Return ``address`` as host:port after a connection to it; Ray itself would wait for minutes.

    Raises:
        OSError: Nobody listens there, or ``auto`` finds no cluster.
    """
    found = (os.environ.get("RAY_ADDRESS") or address) if address == "auto" else address
    host, _, port = found.rpartition(":")
    if not port.isdecimal():
        return found  # Ray itself looks for the processes of a cluster that runs here.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise OSError(f"nobody listens at {found}: {error.strerror or error}") from error
    return found


def _require_loopback() -> None:
    """Raise, and end the cluster, if it listens where others can reach it.

    Raises:
        ClusterError: ray was imported before this process could tell it to stay on the loopback interface.
    """
    import ray

    addresses = {str(node["NodeManagerAddress"]) for node in ray.nodes()}  # type: ignore[no-untyped-call]
    if not addresses <= {"127.0.0.1", "::1"}:
        ray.shutdown()
        raise ClusterError(
            f"execution.executor ray: Ray would listen on {', '.join(sorted(addresses))}, where others can reach it, since ray "
            "was imported before the search could tell it otherwise. Set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 in the "
            "environment, or start a cluster of your own with ray.init() first"
        )


def _start(**options: Any) -> None:
    """Start a cluster of this machine alone. Ray waits for its own servers for 30 s, too short on a busy machine."""
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise ClusterError(
                    f"execution.executor ray: no Ray cluster could be started on this machine ({first_line(error)}); is it "
                    "very busy, or out of memory? Try again, or set execution.executor=serial"
                ) from error


def room(share: Share) -> int:
    """Return the number of workers that fit on the cluster's living nodes, were nothing else on them."""
    return sum(_fits(resources, share) for resources in _nodes())


def describe() -> str:
    """Return the number of nodes, CPUs and GPUs of the cluster in words."""
    nodes = _nodes()
    cpus = sum(resources.get("CPU", 0.0) for resources in nodes)
    gpus = sum(resources.get("GPU", 0.0) for resources in nodes)
    words = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} with {cpus:g} CPUs"
    return words + (f" and {gpus:g} GPUs" if gpus else "")


def _nodes() -> list[dict[str, float]]:
    """Return the resources of every living node, used or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _fits(resources: dict[str, float], share: Share) -> int:
    counts = [math.floor(resources.get("CPU", 0.0) / share.cpus + 1e-9)]
    if share.gpus:
        counts.append(math.floor(resources.get("GPU", 0.0) / share.gpus + 1e-9))
    return min(*counts, _carried(resources.get("CPU", 0.0), resources.get("memory", math.inf)))


def _carried(cpus: float, memory: float) -> int:
    """Return the number of worker processes that so many CPUs and bytes of memory can carry, whatever their share."""
    return math.floor(min(max(cpus, 1.0) * MOST_PER_CPU, memory / LEAST_BYTES))
