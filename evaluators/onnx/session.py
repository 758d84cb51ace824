"""ONNX Runtime sessions with this project's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spaces.execution.batch import Nested


def open_session(model: str | bytes, threads: int = 1, provider: str = "CPUExecutionProvider", **options: Any) -> Any:
    """Return an ONNX Runtime session on a file or on bytes.

    Args:
        model: The path of a file, or its content.
        threads: Threads of a run.
        provider: Name of the execution provider.
        options: Other attributes of ``SessionOptions``.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(model, settings, providers=[provider])


def feeds(session: Any, inputs: Nested) -> dict[str, Any]:
    """Return what an ONNX Runtime session is fed for ``inputs``, by the names of its inputs."""
    from spaces.execution.forward import arguments  # Merging activations opens sessions without PyTorch.

    return {place.name: entry.numpy() for place, entry in zip(session.get_inputs(), arguments(inputs)[0], strict=True)}
