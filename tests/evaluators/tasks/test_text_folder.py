"""Text files as blocks of tokens, and the task of the next one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from evaluators.meters import Perplexity
from evaluators.tasks.data import DataError
from evaluators.tasks.measure import measure
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.next_token import NextToken
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from evaluators.tasks.text_folder import TextFolder, TextFolderSettings
from spaces.channels.check import find_checked_groups
from spaces.errors import UnsupportedModelError
from tests.paths import REPOSITORY

LENGTH = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's licence and change log as texts."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    (folder / "text" / "train.txt").write_bytes((REPOSITORY / "LICENSE").read_bytes())
    (folder / "text" / "test.txt").write_bytes((REPOSITORY / "CHANGELOG.md").read_bytes()[:2000])
    return folder


def folder(root: Path, **options: Any) -> TextFolder:
    return TextFolder(TextFolderSettings(**{"root": str(root), "length": LENGTH, "search_size": 20, **options}))


def task(root: Path, vocabulary: int = 256, **options: Any) -> NextToken:
    model = ModelSettings(
        "spaces.networks.gpt_small",
        {"vocabulary": vocabulary, "blocks": 1, "width": 8, "heads": 2, "hidden": 12, "length": LENGTH},
    )
    found = build_task(TaskSettings(model, NamedData("text_folder", folder(root, **options).settings)))
    assert isinstance(found, NextToken)
    return found


def test_blocks_are_the_text_in_order_each_with_the_token_behind_it(root: Path) -> None:
    data, content = folder(root), (root / "text" / "test.txt").read_bytes()
    assert data.size("test") == (len(content) - 1) // LENGTH
    ids, following = (torch.cat(part) for part in zip(*data.batches("test", 7, None, None), strict=True))
    assert bytes(ids.flatten().tolist()) == content[: ids.numel()]
    assert bytes(following.flatten().tolist()) == content[1 : ids.numel() + 1]
    assert (ids.dtype, data.example().shape) == (torch.int64, (1, LENGTH))


def test_search_blocks_are_set_aside_from_training_and_their_order_is_drawn(root: Path) -> None:
    data = folder(root, calibration_size=5)
    whole = (len((root / "text" / "train.txt").read_bytes()) - 1) // LENGTH
    assert [data.size(split) for split in ("search", "calibration", "train")] == [20, 5, whole - 25]

    def seen(generator: torch.Generator | None) -> list[list[int]]:
        return [ids for batch, _ in data.batches("train", 8, generator, 40) for ids in batch.tolist()]

    drawn = seen(torch.Generator().manual_seed(1))
    assert drawn == seen(torch.Generator().manual_seed(1)) != seen(None)
    assert sorted(drawn) == sorted(seen(None))


def test_a_text_for_search_leaves_training_whole(root: Path, tmp_path: Path) -> None:
    texts = tmp_path / "mine"
    (texts / "train").mkdir(parents=True)
    for name in ("a", "b"):
        (texts / "train" / f"{name}.txt").write_text(name * 33)
    (texts / "search.txt").write_text("c" * 400)
    data = folder(tmp_path, folder_name="mine")
    assert (data.size("train"), data.size("search")) == (4, 20)
    assert bytes(torch.cat([ids for ids, _ in data.batches("search", 9, None, None)]).flatten().tolist()) == b"c" * 320


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder_name": "nowhere"}, r"train\.txt, or a folder train .*nowhere.*data\.root"),
        ({"length": 30_000}, r"at least length \+ 1 = 30001 tokens in the texts of train.*lower data\.length"),
        ({"search_size": 9999}, r"leaves nothing to train on"),
        ({"tokenizer": "none.json"}, r"no file none\.json"),
    ],
)
def test_texts_that_can_not_be_used_are_told(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        list(folder(root, **options).check_data())
    assert "Error" in type(caught.value).__name__
    assert isinstance(caught.value, DataError) or "MissingData" in type(caught.value).__name__


@pytest.mark.parametrize(
    ("options", "message"),
    [({"augment": False}, "augment: is an option"), ({"mean": (0.5,)}, "mean: is an"), ({"length": 0}, "length: expected")],
)
def test_options_of_images_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextFolderSettings(**options)


def test_a_tokenizer_of_ones_own_makes_the_vocabulary(root: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "Licence": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    given = task(root, vocabulary=3, tokenizer=str(tmp_path / "tokenizer.json"))
    ids, _ = next(iter(given.batches("search", 4)))
    assert given.data.classes == 3 > int(ids.max())
    assert measure(given.reference_model(), given, "search").keys() == {"loss", "perplexity", "top1"}


def test_perplexity_is_the_exponential_of_the_loss_and_merges(root: Path) -> None:
    given = task(root)
    model = given.reference_model()
    found = measure(model, given, "search", batch_size=6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-5)
    assert (given.score_name, given.score_sign) == ("perplexity", -1.0)
    parts = [Perplexity() for _ in range(4)]
    with torch.no_grad():
        for place, (ids, following) in enumerate(given.batches("search", 6)):
            parts[place % 4].update(model(ids), following)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == pytest.approx(found["perplexity"], rel=1e-6)


def test_the_distance_from_a_teacher_is_that_of_every_token(root: Path) -> None:
    given = task(root)
    outputs, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    expected = F.kl_div(outputs.log_softmax(2), teacher.log_softmax(2), reduction="none", log_target=True).sum(2).mean()
    torch.testing.assert_close(given.distillation_loss(outputs, teacher, 1.0), expected)


def test_a_network_of_another_vocabulary_is_refused(root: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"logits of shape \(1, 16, 256\).*got shape \(1, 16, 300\)"):
        task(root, vocabulary=300).reference_model()


def test_the_hidden_channels_of_every_mlp_are_open(root: Path) -> None:
    given = task(root)
    groups = find_checked_groups(given.reference_model(), given.example_inputs(), forward=given.forward)
    assert ("blocks.0.up", 12) in [(group.name, group.size) for group in groups.groups]
