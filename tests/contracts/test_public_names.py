"""Names that stand in people's scripts and configurations: each is importable from where it has always been."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

import spaces
from spaces.registry import resolve

PUBLIC = """
search.compress.compress search.config.load search.export.load search.fusing.fuse_file search.pipeline.run
spaces.channel_mask.ChannelMask spaces.bit_width.BitWidth spaces.joint.Joint spaces.filter_ratio.FilterRatio
spaces.pruning_schedule.PruningSchedule spaces.errors.SecateursError
spaces.networks.digits_cnn spaces.networks.resnet20 spaces.networks.resnet56 spaces.networks.vgg16_bn spaces.networks.vgg_small
spaces.networks.mobilenet_v2_small
evaluators.task.Task evaluators.onnx_export.write_onnx
""".split()


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_is_importable(path: str) -> None:
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    assert found.__name__ == name
    assert inspect.getdoc(found)


def test_every_space_is_named_in_the_registry_by_a_public_path() -> None:
    for path in spaces.SPACES.values():
        assert path.replace(":", ".") in PUBLIC
        assert resolve(path)


@pytest.mark.parametrize("module", ["search.config", "search.export", "search.pipeline"])
def test_a_package_in_place_of_a_module_refuses_other_names(module: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        import_module(module).nonsense  # noqa: B018
