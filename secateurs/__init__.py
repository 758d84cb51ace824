"""Public names of secateurs, for programs: ``from secateurs import compress, load``.

The folders ``search``, ``evaluators`` and ``spaces`` hold the rest; docs/python.md shows it.
"""

from evaluators.task import Task
from search.compress import compress
from search.compressed import Compressed
from search.config.loading import Config
from search.config.loading import load as load_config
from search.export.saved_network import load
from search.fusing import fuse_file
from search.pipeline.pipeline import run
from spaces.errors import SecateursError
from spaces.fusion.modules import fuse_activations as fuse

__all__ = [
    "Compressed",
    "Config",
    "SecateursError",
    "Task",
    "compress",
    "fuse",
    "fuse_file",
    "load",
    "load_config",
    "run",
]
