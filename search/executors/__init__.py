"""Executors evaluate trials: in this process, or on a Ray cluster."""

EXECUTORS = {"serial": "search.executors.serial:SerialExecutor", "ray": "search.executors.ray:RayExecutor"}
