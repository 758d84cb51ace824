"""Images in tar archives: an order drawn from seed and epoch, whatever else is in the archives."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators.task import MissingDataError
from evaluators.tasks import tar_listing
from evaluators.tasks.data import DataError
from evaluators.tasks.tar_index import ShardIndex, read_index
from evaluators.tasks.tar_shards import TarShards, TarShardsSettings

Files = Iterable[tuple[str, bytes]]


def image(number: int) -> bytes:
    """Return an image whose red channel is ``number``, the same at all places."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, files: Files, kind: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def samples(numbers: Iterable[int], folder: str = "") -> list[tuple[str, bytes]]:
    """Return the files of samples whose class is 0 for odd and 1 for even numbers."""
    return [
        (f"{folder}{number:04}{ending}", content)
        for number in numbers
        for ending, content in ((".png", image(number)), (".cls", b"%d\n" % (1 - number % 2)))
    ]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEURS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(4):
        kind = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)[shard]
        write(
            folder / "train" / f"{shard}.tar",
            samples(range(10 * shard, 10 * shard + 10), "long/" * 60 * (kind != tarfile.USTAR_FORMAT)),
            kind,
        )
    write(folder / "val" / "0.tar", samples(range(100, 106)))
    return folder


def shards(root: Path, **options: Any) -> TarShards:
    given: dict[str, Any] = {
        "root": str(root),
        "search_size": 8,
        "image_size": 16,
        "workers": 0,
        "augment": False,
        "shuffle_buffer": 5,
    }
    return TarShards(TarShardsSettings(**given | {"shuffle_buffer": 5} | options))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(batches: Iterable[Any]) -> list[int]:
    """Return the numbers of the samples of batches, and check their classes."""
    found = []
    for images, labels in batches:
        some = (images[:, 0].mean((1, 2)) * 0.229 + 0.485) * 255
        found += [round(float(one)) for one in some]
        assert labels.tolist() == [1 - number % 2 for number in found[-len(labels) :]]
    return found


def test_every_sample_is_in_one_split_and_comes_once_in_an_epoch(root: Path) -> None:
    data = shards(root)
    assert (data.size("train"), data.size("search"), data.size("test"), data.classes) == (32, 8, 6, 2)
    train, search = (numbers(data.batches(split, 4, None, None)) for split in ("train", "search"))
    assert sorted(train + search) == list(range(40))
    assert numbers(data.batches("test", 4, None, None)) == list(range(100, 106))
    assert sorted(numbers(data.batches("train", 4, seeded(1), None))) == sorted(train)
    assert data.example().shape == (1, 3, 16, 16)


def test_an_epoch_reads_archive_by_archive_within_the_buffer(root: Path) -> None:
    first, again, other = (numbers(shards(root).batches("train", 4, seeded(seed), None)) for seed in (1, 1, 2))
    assert first == again != other
    lying = numbers(shards(root, shuffle_buffer=1).batches("train", 4, seeded(1), None))
    archives = [number // 10 for number in lying]
    assert len([None for one, two in pairwise(archives) if one != two]) == 3
    assert all(lying[i] < lying[i + 1] for i in range(31) if archives[i] == archives[i + 1])
    in_buffer = numbers(shards(root, shuffle_buffer=5).batches("train", 4, seeded(1), None))
    # What leaves at place i is among the first i + 5 that lie there.
    assert all(lying.index(number) < place + 5 for place, number in enumerate(in_buffer))
    assert in_buffer != lying


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_and_parts_of_batches_change_nothing(root: Path) -> None:
    whole = list(shards(root, augment=True).batches("train", 8, seeded(3), None))
    for workers in (0, 1):
        data = shards(root, augment=True, workers=workers)
        parts = [list(data.batch_rows("train", 8, seeded(3), start, start + 4)) for start in (0, 4)]
        for (images, labels), *halves in zip(whole, *parts, strict=True):
            assert torch.equal(torch.cat([half[0] for half in halves]), images)
            assert torch.equal(torch.cat([half[1] for half in halves]), labels)


def test_an_index_is_kept_until_its_archive_changes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_listing, "SETTLED", 0)
    base, read = shards(root).fingerprint, list[str]()

    def noted(path: Path, *rest: Any) -> ShardIndex:
        read.append(path.name)
        return read_index(path, *rest)

    monkeypatch.setattr(tar_listing, "read_index", noted)
    assert (shards(root).fingerprint, read) == (base, [])
    os.utime(root / "train" / "2.tar")
    assert (shards(root).fingerprint, read) == (base, ["2.tar"])
    (kept,) = [path for path in (tmp_path / "cache" / "shards").iterdir() if b'"0.tar' not in path.read_bytes()][:1]
    kept.write_bytes(b"damaged")
    assert shards(root).fingerprint == base
    assert len(read) == 2
    assert shards(root, split_seed=1).fingerprint != base


def test_foreign_members_are_left_alone_and_names_lead_nowhere(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(image(7))
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for name, kind, target in (
            ("../../evil.png", tarfile.SYMTYPE, str(secret)),
            ("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("device.png", tarfile.CHRTYPE, ""),
            ("folder.png", tarfile.DIRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        for name, content in [*samples([1, 2, 3, 4], "../../../"), ("5.pickle", b"cos\nsystem\n."), ("README", b"")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    for part in ("train", "val"):
        (tmp_path / "data" / part).mkdir(parents=True)
        (tmp_path / "data" / part / "0.tar").write_bytes((tmp_path / "train.tar").read_bytes())
    with pytest.raises(DataError, match=r"'5': expected one image and one .cls, got 0 and 0"):
        shards(tmp_path / "data").size("train")
    data = shards(tmp_path / "data", search_size=1, damaged_images="skip")
    assert sorted(numbers(data.batches("test", 2, None, None))) == [1, 2, 3, 4]
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "data", "secret.png", "train.tar"}


def broken(root: Path, folder: Path, files: Files, cut: int | None = None) -> Path:
    """Return a folder with the sound archives and one more in ``train``, cut off at a byte."""
    for part in ("train", "val"):
        (folder / part).mkdir(parents=True)
        for path in (root / part).iterdir():
            (folder / part / path.name).symlink_to(path)
    write(folder / "train" / "9.tar", files)
    if cut is not None:
        os.truncate(folder / "train" / "9.tar", cut)
    return folder


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("a.png", image(1))], "'a': expected one image and one .cls, got 1 and 0"),
        ([("a.cls", b"1")], "'a': expected one image and one .cls, got 0 and 1"),
        ([("a.png", image(1)), ("a.jpg", image(1)), ("a.cls", b"1")], "'a': expected one image and one .cls, got 2 and 1"),
        ([("a.png", image(1)), ("a.cls", b"-1")], "'a': expected a number from 0 to below 1,000,000 in .cls, got '-1'"),
        ([("a.png", image(1)), ("a.cls", b"\xff")], "'a': expected a number from 0"),
        ([("a.png", image(1)), ("a.cls", b"9" * 400)], "'a': expected a number from 0"),
        ([("a.png", bytes(20_000)), ("a.cls", b"1")], "'a': an image of 20,000 bytes, expected at most 8,000"),
    ],
)
def test_samples_that_can_not_be_used_are_named_or_counted(root: Path, tmp_path: Path, files: Files, words: str) -> None:
    place, pixels = broken(root, tmp_path / "data", [*samples([50]), *files, *samples([51])]), {"most_pixels": 1000}
    with pytest.raises(DataError) as caught:
        shards(place, **pixels).size("train")
    assert "tar_shards: 0 of 5 archives in" in str(caught.value)
    assert f"1 samples that can't be used: {place / 'train' / '9.tar'}: {words}" in str(caught.value)
    data = shards(place, damaged_images="skip", **pixels)
    assert data.size("train") == 34
    assert next(iter(data.check_data())).startswith(
        "data: headers of 42 samples in 5 archives of train and pixels of 42, 1 skipped and 0 replaced by the next: "
    )


@pytest.mark.parametrize("cut", [0, 100, 700, 512 * 4, 512 * 8])
def test_archives_that_end_early_are_named_and_read_up_to_there(root: Path, tmp_path: Path, cut: int) -> None:
    place = broken(root, tmp_path / "data", samples([50, 51, 52]), cut)
    with pytest.raises(
        DataError, match=r"1 of 5 archives in .* damaged, .*9.tar: no tar archive, or damaged behind \d samples"
    ):
        shards(place).size("train")
    assert shards(place, damaged_images="skip").size("train") in (32, 33, 34)


def test_damage_in_the_middle_is_no_end(root: Path, tmp_path: Path) -> None:
    place = broken(root, tmp_path / "data", samples([50, 51, 52]))
    with (place / "train" / "9.tar").open("r+b") as file:
        file.seek(512 * 4)
        file.write(b"\xff" * 512)
    with pytest.raises(DataError, match=r"damaged behind 0 samples \(no header and no end at byte 2048\)"):
        shards(place).size("train")


def test_an_image_that_only_decoding_shows_to_be_damaged_is_named_or_replaced(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = broken(root, tmp_path / "data", [("a.png", image(1)[:60]), ("a.cls", b"0")])
    with pytest.raises(
        DataError, match=r"tar_shards: 1 damaged or too large, by .*9.tar at byte \d+ can't be read as an image"
    ):
        list(shards(place).check_data())
    with pytest.raises(DataError, match=r"tar_shards: .*9.tar at byte \d+ can't be read as an image"):
        list(shards(place, search_size=1).batches("train", 1, seeded(0), None))
    data = shards(place, damaged_images="skip")
    with caplog.at_level("WARNING", logger="search"):
        counted = Counter(numbers([*data.batches("train", 1, seeded(0), None), *data.batches("search", 1, None, None)]))
    assert sum(counted.values()) == 41
    assert "can't be decoded, replaced by the next: 1 new, 1 in all: " in caplog.text


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"archives as train/\*.tar in .*there is no such folder"):
        shards(tmp_path / "nowhere").size("train")
    (tmp_path / "zipped" / "train").mkdir(parents=True)
    (tmp_path / "zipped" / "train" / "0.tar.gz").touch()
    with pytest.raises(DataError, match=r"not compressed in .*train, got 0.tar.gz; unpack"):
        shards(tmp_path / "zipped").size("train")
    write(tmp_path / "gap" / "train" / "0.tar", [("a.png", image(1)), ("a.cls", b"3")])
    with pytest.raises(DataError, match="there are none of class 0, and up to 3 there are"):
        shards(tmp_path / "gap").size("train")
    with pytest.raises(ValueError, match="shuffle_buffer: expected at least 1 sample, got 0"):
        TarShardsSettings(shuffle_buffer=0)
