"""Files with a digest inside: whatever is damaged in them is told, and what was written is read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from spaces.files.json_file import is_digested, pack_record, read_record, unpack_record, write_record
from spaces.files.reading import DamagedFileError, FileError
from spaces.files.tensor_file import pack_tensors, unpack_tensors

DATA = {"a": 1, "text": 'ü"\n', "list": [1.5, None, True], "deep": {"x": {}}}
TENSORS = {"w": torch.arange(15.0).reshape(3, 5), "n": torch.tensor(7), "flag": torch.ones(2, dtype=torch.bool)}
FILES: dict[str, tuple[bytes, Callable[[bytes, str], Any]]] = {
    "json": (pack_record(DATA), unpack_record),
    "checkpoint": (pack_tensors(TENSORS, DATA), unpack_tensors),
    "weights": (pack_tensors(TENSORS), unpack_tensors),
}


def flipped(content: bytes) -> Iterator[bytes]:
    """Yield the content with each of its bits flipped."""
    for place in range(len(content)):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


@pytest.mark.parametrize("kind", FILES)
def test_every_flipped_bit_is_told(kind: str) -> None:
    content, unpack = FILES[kind]
    unpack(content, "the file")
    for damaged in flipped(content):
        with pytest.raises(DamagedFileError, match="^the file"):
            unpack(damaged, "the file")


@pytest.mark.parametrize("kind", FILES)
def test_every_cut_and_every_overwritten_part_is_told(kind: str) -> None:
    content, unpack = FILES[kind]
    for place in range(len(content)):
        overwritten = content[:place] + b"\xff\x00" * 4 + content[place + 8 :]
        for damaged in (content[:place], overwritten[: len(content)]):
            with pytest.raises(DamagedFileError, match="^the file"):
                unpack(damaged, "the file")


@pytest.mark.parametrize("place", [8, 100, 300, 2**20, 2**21, -1])
def test_damage_of_a_large_file_is_told(place: int) -> None:
    content = pack_tensors({"w": torch.arange(2.0**19)}, DATA)
    unpack_tensors(content, "f")
    for damaged in (bytes([content[place] ^ 4]), b""):
        start = place % len(content)
        with pytest.raises(DamagedFileError):
            unpack_tensors(content[:start] + damaged + content[start + 1 :], "f")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", DATA)
    assert read_record(tmp_path / "a.json") == DATA
    assert json.loads((tmp_path / "a.json").read_text()) == {"digest": json.loads(pack_record(DATA))["digest"], **DATA}
    tensors, data = unpack_tensors(pack_tensors(TENSORS, DATA), "f")
    assert data == DATA
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_equal_content_gives_equal_bytes_that_other_programs_read() -> None:
    assert pack_tensors(TENSORS, DATA) == pack_tensors(TENSORS, DATA)
    found = safetensors.torch.load(pack_tensors(TENSORS))
    assert torch.equal(found["w"], TENSORS["w"])


def test_a_file_from_before_digests_is_read() -> None:
    content = json.dumps(DATA, indent=1).encode()
    assert not is_digested(content)
    assert unpack_record(content, "f") == DATA
    old = safetensors.torch.save(TENSORS, {"data": json.dumps(DATA)})
    assert unpack_tensors(old, "f")[1] == DATA
    assert unpack_tensors(safetensors.torch.save(TENSORS), "f")[1] == {}


def test_a_file_that_another_program_has_written_anew_is_read_without_its_digest() -> None:
    content = json.dumps({**json.loads(pack_record(DATA)), "a": 2}).encode()
    assert not is_digested(content)
    assert unpack_record(content, "f") == {**DATA, "a": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}'])
def test_what_is_no_json_object_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"f\.json"):
        read_record(tmp_path / "f.json")


def test_a_folder_in_the_place_of_a_file_is_no_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "f.json").mkdir()
    with pytest.raises(FileError, match="expected a regular file") as told:
        read_record(tmp_path / "f.json")
    assert not isinstance(told.value, DamagedFileError)
