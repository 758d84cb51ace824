"""Networks of timm: listed by name, stored by name, built without weights or a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.onnx_export import ExportError
from search.export import load
from tests.search.trust.foreign import saved
from tests.search.trust.listed import Built, no_network, origin  # noqa: F401 (a fixture)

pytest.importorskip("timm", reason="timm is not installed: `uv sync --group zoo`")


@pytest.mark.parametrize("factory", ["timm.create_model", "timm.models.mobilenetv3_small_050"])
def test_a_network_of_timm_loads_without_weights(factory: str, tmp_path: Path) -> None:
    import timm

    network = timm.create_model("mobilenetv3_small_050", num_classes=5)
    named = {"model_name": "mobilenetv3_small_050"} if factory == "timm.create_model" else {}
    folder = saved(tmp_path, origin(factory, num_classes=5, pretrained=True, **named), network)
    inputs = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(load(folder)(inputs), network.eval()(inputs), rtol=0, atol=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_name": "hf-hub:somebody/evil"},
        {"model_name": "local-dir:/tmp"},
        {"model_name": "nothing"},
        {"model_name": 3},
        *({"model_name": "mobilenetv3_small_050", key: "x"} for key in ("checkpoint_path", "pretrained_cfg", "cache_dir")),
        {"model_name": "mobilenetv3_small_050", "pretrained_cfg_overlay": {"file": "evil.pth"}},
    ],
)
def test_what_timm_would_read_or_fetch_is_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="timm"):
        load(saved(tmp_path, origin("timm.create_model", **arguments), nn.Linear(1, 1)))


@pytest.mark.parametrize("factory", ["timm.create_model", "timm.models.create_model"])
def test_a_network_of_timm_is_stored_by_its_name(factory: str) -> None:
    found = Built(factory, {"model_name": "mobilenetv3_small_050", "num_classes": 5, "cache_dir": None}).stored()
    assert found == ("timm.create_model", {"model_name": "mobilenetv3_small_050", "num_classes": 5})
