"""Loading of a run's network in a new process, without pickle or data, from a folder that anybody may have made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from torch import nn

from evaluators.onnx_export import ExportError
from search.output.log_records import PACKAGE
from search.run.best import ARCHITECTURE, WEIGHTS, open_best
from search.run.network import rebuild, transformed
from search.trust.architecture import Architecture, parse_architecture
from search.trust.factories import admit
from search.trust.guard import guarded
from search.trust.shapes import Header, changed, check_on_meta, read_header, require_same_shapes
from spaces.cloning.plain_network import without_wrappers
from spaces.errors import SecateursError
from spaces.files.json_file import is_digested, undigested
from spaces.files.reading import read_bounded
from spaces.files.tensor_file import unpack_tensors


def load(run_dir: str | Path, model_factory: Callable[[], nn.Module] | None = None, trust: Sequence[str] = ()) -> nn.Module:
    """Return the best network of a run, in evaluation mode on the CPU.

    A run folder may come from anybody: what it names is built from closed lists (the networks of this project, torchvision,
    timm and transformers), and nothing else is imported or run without ``trust`` or ``model_factory``.

    Args:
        run_dir: The run folder, or its ``best/``.
        model_factory: Returns the original network; None for the one that the run was configured with.
        trust: Packages and modules whose factories and task classes may run (``["package.module"]``).

    Raises:
        ExportError: There is no such network, the folder is damaged, or its factory is neither listed nor trusted.
    """
    folder = Path(run_dir)
    folder = folder / "best" if (folder / "best").is_dir() else folder
    if not (folder / ARCHITECTURE).exists():
        raise ExportError(f"{folder} has no {ARCHITECTURE}; expected a folder of a run that has found a network")
    try:
        with open_best(folder) as (architecture, weights):
            content = read_bounded(architecture, str(folder / ARCHITECTURE))
            recorded = parse_architecture(content, str(folder / ARCHITECTURE))
            if not is_digested(content):
                PACKAGE.warning(undigested(folder / ARCHITECTURE))
            header = read_header(weights, str(folder / WEIGHTS))
            return _load(folder, recorded, weights, header, model_factory, trust)
    except ExportError:
        raise
    except SecateursError as error:
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(f"{folder} can't be read: {error.strerror} ({error.filename})") from error


def _load(
    folder: Path,
    recorded: Architecture,
    weights: BinaryIO,
    header: Header,
    model_factory: Callable[[], nn.Module] | None,
    trust: Sequence[str],
) -> nn.Module:
    change = partial(transformed, transformations=recorded.transformations)
    if model_factory is not None:
        model = model_factory()
    else:
        factory = admit(recorded.task, folder, trust)
        if factory.listed:
            check_on_meta(factory.name, factory.build, change, header, str(folder / WEIGHTS))
            with guarded():
                model = factory.build()
        else:
            model = factory.build()
    model = changed(without_wrappers(model), change)
    require_same_shapes(model, header, str(folder / WEIGHTS))
    tensors, _ = unpack_tensors(weights.read(), str(folder / WEIGHTS))
    return rebuild(model, (), tensors).model
