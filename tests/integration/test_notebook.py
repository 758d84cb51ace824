"""`compress()` in a real kernel of Jupyter: progress in one output that is replaced, few lines, and a picture of the result."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("nbclient") is None or find_spec("ipykernel") is None,
        reason="needs a kernel of Jupyter: uv run --group notebook pytest -m slow tests/integration/test_notebook.py",
    ),
]

GIVEN = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from spaces.networks import digits_cnn
from search import recipes

recipes.EFFORTS["quick"] = recipes.Extent(population=4, generations=2, evolution=1)
images = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
loader = DataLoader(TensorDataset(images, torch.arange(60) % 10), batch_size=10)
model = digits_cnn(width=4).eval()
"""
CALLED = """
from secateurs import compress

target = {"macs": "<= 40%"}
found = compress(model, loader, loader, loader, target=target, folder="runs/mine", epochs=40, effort="quick")
"""
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

class Watched(NotebookClient):
    updates = 0

    def process_message(self, msg, cell, cell_index):
        self.updates += msg["msg_type"] == "update_display_data"
        return super().process_message(msg, cell, cell_index)

path = sys.argv[1]
client = Watched(nbformat.read(path, 4), timeout=500, kernel_name="python3")
client.execute()
client.nb.metadata["updates"] = client.updates
nbformat.write(client.nb, path)
"""


def test_progress_is_one_output_and_the_result_is_a_picture(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "id": str(place), "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for place, source in enumerate((GIVEN, CALLED, "found"))
    ]
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    subprocess.run([sys.executable, "-W", "ignore", "-c", EXECUTE, str(path)], check=True, cwd=tmp_path)
    notebook = json.loads(path.read_text())
    _, progress, result = (cell["outputs"] for cell in notebook["cells"])
    lines = "".join("".join(output["text"]) for output in progress if output["output_type"] == "stream").splitlines()
    (line,) = [output for output in progress if output["output_type"] == "display_data"]
    assert "".join(line["data"]["text/html"]) == ""
    assert notebook["metadata"]["updates"] > 3
    assert 5 < len(lines) < 25
    assert any(text.startswith("1-retrain: 40/40 loss") for text in lines)
    assert not any("ETA" in text for text in lines)
    shown: dict[str, Any] = result[0]["data"]
    assert "MACs" in "".join(shown["text/plain"])
    page = "".join(shown["text/html"])
    assert "% left</title>" in page
    assert 'src="data:image/png;base64,' in page
