"""Names that stand in people's scripts and configurations: each is importable from where it has always been."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

import secateurs
import spaces
from spaces.registry import resolve
from tests.paths import REPOSITORY

PUBLIC = """
search.compress.compress search.config.load search.export.load search.fusing.fuse_file search.pipeline.run
spaces.channel_mask.ChannelMask spaces.bit_width.BitWidth spaces.joint.Joint spaces.filter_ratio.FilterRatio
spaces.pruning_schedule.PruningSchedule spaces.depth.Depth spaces.errors.SecateursError
spaces.networks.digits_cnn spaces.networks.resnet20 spaces.networks.resnet56 spaces.networks.vgg16_bn spaces.networks.vgg_small
spaces.networks.mobilenet_v2_small
secateurs.compress secateurs.Compressed secateurs.load secateurs.fuse_file secateurs.run secateurs.Config secateurs.Task
secateurs.SecateursError
evaluators.task.Task evaluators.onnx_export.write_onnx
""".split()


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_is_importable(path: str) -> None:
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    assert found.__name__ == name
    assert inspect.getdoc(found)


def test_the_module_of_public_names_lists_each_of_them_and_all_packages_ship_their_types() -> None:
    assert all(getattr(secateurs, name) for name in secateurs.__all__)
    assert {path.rpartition(".")[2] for path in PUBLIC if path.startswith("secateurs.")} <= set(secateurs.__all__)
    for package in ("secateurs", "search", "evaluators", "spaces"):
        assert (REPOSITORY / package / "py.typed").is_file()


def test_every_space_is_named_in_the_registry_by_a_public_path() -> None:
    for path in spaces.SPACES.values():
        assert path.replace(":", ".") in PUBLIC
        assert resolve(path)


@pytest.mark.parametrize("module", ["search.config", "search.export", "search.pipeline"])
def test_a_package_in_place_of_a_module_refuses_other_names(module: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        import_module(module).nonsense  # noqa: B018
