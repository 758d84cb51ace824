"""Text files as blocks of tokens, for the prediction of the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from evaluators.task import Batch, Split
from evaluators.tasks.batches import batch_places
from evaluators.tasks.data import DataError, DataSet, DataSettings, missing, split_indices
from spaces.errors import error_line

BYTES = "bytes"


@dataclass(frozen=True)
class TextFolderSettings(DataSettings):
    """Options of :class:`TextFolder`; a sample is a block of tokens.

    Attributes:
        folder_name: Folder of the texts below ``root``.
        length: Tokens of a block.
        tokenizer: ``bytes``, or the path of a JSON file of the package tokenizers.
    """

    search_size: int = 512
    folder_name: str = "text"
    length: int = 128
    tokenizer: str = BYTES

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length: expected at least 1 token, got {self.length}")
        if self.download:
            raise ValueError("download: a text folder cannot be fetched; put the files under root")
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: is an option of images; a text folder has none")
        if self.augment is not True:
            raise ValueError("augment: is an option of images; a text folder has none")


class TextFolder(DataSet):
    """Texts in ``root/text``: ``train.txt`` and ``test.txt``, and perhaps ``search.txt``, or folders of those names.

    Of a folder, all ``.txt`` files are read in the order of their names. Without texts for the search split, blocks of the
    training text are set aside; with them, ``search_size`` is the most blocks that are taken. Blocks do not overlap, and a
    last incomplete one is left out.
    """

    Settings: ClassVar[type[DataSettings]] = TextFolderSettings
    settings: TextFolderSettings
    task = "evaluators.tasks.next_token:NextToken"

    def __init__(self, settings: TextFolderSettings) -> None:
        """Keep the settings; no file is read yet."""
        self.settings = settings
        self._splits: dict[str, Tensor] = {}

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Size of the vocabulary."""
        return 256 if self._tokenizer is None else int(self._tokenizer.get_vocab_size())

    def size(self, split: Split) -> int:
        """Return the number of blocks in ``split``."""
        return len(self._blocks(split))

    def batches(self, split: Split, batch_size: int, generator: torch.Generator | None, limit: int | None) -> Iterator[Batch]:
        """Yield ``(ids, next ids)``, both int64 of shape ``(N, length)``."""
        blocks = self._blocks(split)
        count = len(blocks) if limit is None else min(limit, len(blocks))
        for places in batch_places(count, batch_size, generator):
            chosen = blocks[places].long()
            yield chosen[:, :-1].contiguous(), chosen[:, 1:].contiguous()

    def check_data(self) -> Iterable[str]:
        """Return a line with the number of tokens of every split.

        Raises:
            DataError: A text is shorter than a block, or the tokenizer can't be read.
        """
        sizes = [f"{self.size(split) * self.settings.length:,} {split}" for split in ("train", "search", "test")]
        yield f"text: {', '.join(sizes)} tokens of a vocabulary of {self.classes}"

    def example(self) -> Tensor:
        """Return the first block of training as a batch, int64 of shape ``(1, length)``."""
        return self._blocks("train")[:1, :-1].long()

    @property
    def fingerprint(self) -> str:
        """Hash of the tokens of training and search, and of the vocabulary's size."""
        digest = hashlib.sha256(repr((self.classes, self.settings.length)).encode())
        for split in ("train", "search"):
            digest.update(self._blocks(split).numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _tokenizer(self) -> Any:
        name = self.settings.tokenizer
        if name == BYTES:
            return None
        file = Path(name).expanduser()
        if not file.is_file():
            raise DataError(f"text_folder: data.tokenizer: expected bytes, or the path of a tokenizer's JSON; no file {file}")
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise DataError(
                'text_folder: data.tokenizer needs the extra `text`: pip install "secateurs[text]", or set tokenizer: bytes'
            ) from error
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:
            raise DataError(f"text_folder: {file} is no tokenizer's JSON: {error_line(error)}") from error

    def _blocks(self, split: Split) -> Tensor:
        """Return the blocks of a split, each with the token behind it, of shape ``(blocks, length + 1)``."""
        if split not in self._splits:
            if split == "test":
                self._splits["test"] = self._read("test")
            else:
                self._splits |= self._divided()
        return self._splits[split]

    def _divided(self) -> dict[str, Tensor]:
        whole, settings = self._read("train"), self.settings
        if self._files("search"):
            search = self._read("search")[: settings.search_size]
            held = settings.calibration_size
            if held >= len(whole):
                raise DataError(f"calibration_size {held} leaves nothing to train on: the text has {len(whole)} blocks")
            order = torch.from_numpy(np.random.default_rng(settings.split_seed).permutation(len(whole)))
            chosen = {"train": order[held:][: settings.train_size], "calibration": order[:held]}
            return {"search": search, **{name: whole[places] for name, places in chosen.items()}}
        places = split_indices(len(whole), settings)
        return {name: whole[torch.from_numpy(chosen)] for name, chosen in places.items()}

    @property
    def _folder(self) -> Path:
        return self.settings.folder() / self.settings.folder_name

    def _files(self, split: str) -> list[Path]:
        file, folder = self._folder / f"{split}.txt", self._folder / split
        return [file] if file.is_file() else sorted(folder.glob("*.txt"))

    def _read(self, split: str) -> Tensor:
        files = self._files(split)
        if not files:
            raise missing("text_folder", f"{split}.txt, or a folder {split} of .txt files,", self._folder, downloadable=False)
        parts = [self._tokens(file) for file in files]
        step = self.settings.length
        # The last token of a block's targets is the first of the next block's ids.
        tokens = torch.cat(parts)
        blocks = (len(tokens) - 1) // step
        if blocks < 1:
            raise DataError(
                f"text_folder: {files[0]}: expected at least length + 1 = {step + 1} tokens in the texts of {split}, got "
                f"{len(tokens)}; lower data.length"
            )
        return tokens[: blocks * step + 1].unfold(0, step + 1, step)

    def _tokens(self, file: Path) -> Tensor:
        content = file.read_bytes()
        if self._tokenizer is None:
            return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"text_folder: {file} is no text in UTF-8 ({error}); set tokenizer: bytes") from error
        return torch.tensor(self._tokenizer.encode(text).ids, dtype=torch.int32)
