"""Measure latency on another machine: by a worker on the Ray node that has a custom resource."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evaluators.base import Evaluator
from evaluators.latency.backends.base import Conditions, Program
from evaluators.latency.latency import with_timers
from evaluators.latency.timers import LayerRequest, LocalTimer
from evaluators.latency.timing import Timing
from search.config.block import Block
from search.config.registries import EVALUATOR
from search.executors.driver_place import import_paths
from search.executors.ray_cluster import ClusterError, Share, connect, require_ray
from search.executors.ray_settings import RaySettings

if TYPE_CHECKING:
    from search.config.loading import Execution

ANSWER_SECONDS = 600.0
USUAL = ("CPU", "GPU", "memory", "object_store_memory")


def evaluators_of(blocks: Sequence[Block], execution: Execution) -> list[Evaluator]:
    """Return the evaluators of ``blocks``; one of latency with a resource measures on the node that has it.

    Raises:
        ClusterError: There is no Ray, no cluster, or no node with the resource.
    """

    def remote(resource: str, address: str) -> RemoteTimer:
        settings = execution.executor.settings
        return RemoteTimer.on(resource, settings if isinstance(settings, RaySettings) else RaySettings(address=address))

    return with_timers([EVALUATOR.build(block) for block in blocks], remote)


class RemoteTimer:
    """Timer of programs and layers in a worker of its own, which holds the resource while it lives.

    Only bytes and shapes are sent: the other machine needs this package, and neither the model's code nor its data.

    Args:
        worker: The worker's handle.
        resource: The resource, for messages.
    """

    def __init__(self, worker: Any, resource: str) -> None:
        self._worker = worker
        self._resource = resource

    @staticmethod
    def on(resource: str, settings: RaySettings) -> RemoteTimer:
        """Return a timer on the node with ``resource``, in the cluster that ``settings`` name.

        Raises:
            ClusterError: There is no Ray, no cluster, or no node with the resource.
        """
        try:
            require_ray()
        except ClusterError as error:
            raise ClusterError(f"evaluate.latency.resource: {resource} is a node's on a Ray cluster. {error}") from error
        connect(settings, Share.of(settings, 1))
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if not any(resources.get(resource, 0.0) >= 1.0 for resources in nodes):
            known = sorted({name for resources in nodes for name in resources if name not in USUAL and "node:" not in name})
            raise ClusterError(
                f"evaluate.latency.resource: no living node of the cluster has the resource {resource!r}; custom ones are: "
                f"{', '.join(known) or 'none'}. On the machine to measure on, run `ray start --address=HOST:PORT --num-cpus=0 "
                f"--resources='{{\"{resource}\": 1}}'`"
            )
        worker_class: Any = ray.remote(num_cpus=0, resources={resource: 1.0}, max_restarts=3, max_task_retries=3)(TimingWorker)
        options = {"name": f"secateurs-latency-{resource}", "namespace": "secateurs", "get_if_exists": True}
        return RemoteTimer(worker_class.options(**options).remote(import_paths()), resource)

    def time(self, programs: Sequence[Program], conditions: Conditions) -> list[Timing]:
        """Return the measured times of the programs there, timed in turn."""
        found: list[Timing] = self._answer(self._worker.time.remote(list(programs), conditions))
        return found

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        """Return the milliseconds of layers by themselves there."""
        found: list[float] = self._answer(self._worker.time_layers.remote(list(requests), conditions))
        return found

    def machine(self, conditions: Conditions) -> str:
        """Return the name of the processor or GPU there."""
        found: str = self._answer(self._worker.machine.remote(conditions))
        return found

    def _answer(self, pending: Any) -> Any:
        import ray

        try:
            return ray.get(pending, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise ClusterError(
                f"evaluate.latency.resource: the worker on the node with {self._resource!r} does not answer "
                f"({type(error).__name__}); is the node still there, and nobody else measuring on it? The same command goes on"
            ) from error


class TimingWorker:
    """Timer in a process that Ray starts for it.

    Args:
        paths: The driver's import paths.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        sys.path.extend(path for path in paths if path not in sys.path)

    def time(self, programs: Sequence[Program], conditions: Conditions) -> list[Timing]:
        """Return the measured times of the programs, timed in turn."""
        return LocalTimer().time(programs, conditions)

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        """Return the milliseconds of layers by themselves."""
        return LocalTimer().time_layers(requests, conditions)

    def machine(self, conditions: Conditions) -> str:
        """Return the name of the processor or GPU."""
        return LocalTimer().machine(conditions)
