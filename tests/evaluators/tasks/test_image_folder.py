import errno
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators.task import MissingDataError
from evaluators.tasks import image_files, image_folder, read_images
from evaluators.tasks.data import DataError
from evaluators.tasks.image_folder import ImageFolder, ImageFolderSettings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 3)):
        for number, name in enumerate(("ant", "bee")):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (20 + index, 24, 3)).astype(np.uint8)
                pixels[..., 0] = 255 * number
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder


def folder(root, **options) -> ImageFolder:
    return ImageFolder(ImageFolderSettings(**{"root": str(root), "search_size": 6, "image_size": 16, "workers": 0} | options))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_splits_sizes_and_shapes(root):
    data = folder(root)
    assert (data.size("train"), data.size("search"), data.size("test"), data.classes) == (18, 6, 6, 2)
    assert data.class_names == ("ant", "bee")
    for split in ("train", "search", "test"):
        for images, labels in data.batches(split, 4, None, None):
            assert images.shape[1:] == (3, 16, 16)
            assert images.dtype == torch.float32
            # The red channel tells the class: it is all 0 or all 1 before normalisation.
            assert torch.allclose(images[:, 0].mean((1, 2)) * 0.229 + 0.485, labels.float(), atol=1e-5)
    files = {split: {path for path, _ in data.samples(split)} for split in ("train", "search")}
    assert not files["train"] & files["search"]
    assert data.example().shape == (1, 3, 16, 16)


def test_fixed_order_is_mixed_and_limited(root):
    labels = [int(label) for _, found in folder(root).batches("train", 5, None, 15) for label in found]
    assert len(labels) == 15
    assert labels != sorted(labels)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_change_what_a_generator_gives(root):
    state = torch.get_rng_state()
    alone = list(folder(root).batches("train", 4, seeded(1), None))
    workers = list(folder(root, workers=2).batches("train", 4, seeded(1), None))
    other = list(folder(root).batches("train", 4, seeded(2), None))
    assert [len(labels) for _, labels in alone] == [4] * 4
    assert all(torch.equal(a, b) and torch.equal(s, t) for (a, s), (b, t) in zip(alone, workers, strict=True))
    assert not torch.equal(alone[0][0], other[0][0])
    assert torch.equal(state, torch.get_rng_state())


def test_only_training_batches_with_a_generator_are_augmented(root):
    data = folder(root)
    plain = torch.cat([images for images, _ in data.batches("search", 6, None, None)])
    shuffled = torch.cat([images for images, _ in data.batches("search", 6, seeded(0), None)])
    assert sorted(plain.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(shuffled.sum((1, 2, 3)).tolist()))


def test_fingerprint_follows_files_and_preparation(root):
    base = folder(root).fingerprint
    assert folder(root, workers=1).fingerprint == base
    assert folder(root, image_size=15).fingerprint != base
    assert folder(root, split_seed=1).fingerprint != base


def test_fingerprint_takes_the_class_folder_and_names_that_are_no_text(root, tmp_path):
    shutil.copytree(root, tmp_path / "images")
    ant = tmp_path / "images" / "train" / "ant"
    assert folder(tmp_path / "images").fingerprint == folder(root).fingerprint
    (ant / "9.png").rename(ant / os.fsdecode(b"9\xff.png"))
    before = folder(tmp_path / "images").fingerprint
    assert before != folder(root).fingerprint
    ant.rename(ant.with_name("aunt"))
    assert folder(tmp_path / "images").fingerprint != before


def test_differing_class_folders_are_named(root, tmp_path):
    for part, name in (("train", "ant"), ("train", "bee"), ("val", "ant"), ("val", "wasp")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    with pytest.raises(DataError, match="only in train: bee; only in val: wasp. Rename"):
        folder(tmp_path).size("test")


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="resize: expected at least image_size 224, got 100"):
        ImageFolderSettings(resize=100)
    with pytest.raises(ValueError, match="cannot be fetched"):
        ImageFolderSettings(download=True)


def fill(root, *places) -> None:
    for place in places:
        (root / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / place / "0.png")


def test_a_class_folder_without_images_is_named(tmp_path):
    fill(tmp_path, "train/ant", "train/bee", "val/ant", "val/bee")
    (tmp_path / "train" / "bee" / "0.png").rename(tmp_path / "train" / "bee" / "0.txt")
    with pytest.raises(DataError, match=r"images \(.jpg.*\) in every class folder of .*train; none in bee"):
        folder(tmp_path).size("train")


def test_a_folder_that_is_not_there_is_named_with_what_is(tmp_path):
    fill(tmp_path, "train/ant", "test/ant")
    with pytest.raises(MissingDataError, match=r"images as val/CLASS/\*.jpg in .* \(it begins with test, train\)"):
        folder(tmp_path).size("test")
    with pytest.raises(MissingDataError, match="there is no such folder"):
        folder(tmp_path / "nowhere").size("train")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_without_a_traceback(tmp_path, workers):
    fill(tmp_path, "train/ant", "train/bee", "val/ant", "val/bee")
    broken = tmp_path / "val" / "bee" / "0.png"
    broken.write_bytes(b"no image")
    data = folder(tmp_path, workers=workers, search_size=1)
    with pytest.raises(DataError) as caught:
        list(data.batches("test", 2, None, None))
    assert str(caught.value).startswith(f"image_folder: {broken} can't be read as an image (")
    assert "\n" not in str(caught.value)


def test_images_that_are_not_augmented_are_decoded_once_where_memory_allows(root, monkeypatch):
    opened = []
    load = image_files.read_image
    monkeypatch.setattr(image_files, "read_image", lambda path, bounds: opened.append(path) or load(path, bounds))
    data = folder(root)
    part = torch.cat([images for images, _ in data.batches("search", 2, None, 4)])
    whole = torch.cat([images for images, _ in data.batches("search", 4, None, None)])
    again = torch.cat([images for images, _ in data.batches("search", 6, None, None)])
    assert torch.equal(part, whole[:4])
    assert torch.equal(whole, again)
    assert len(opened) == 6
    monkeypatch.setattr(read_images, "KEPT_BYTES", 0)
    read = list(folder(root).batches("search", 4, None, None))
    assert torch.equal(torch.cat([images for images, _ in read]), whole)
    assert len(opened) == 12


def test_hidden_folders_are_no_classes(root, tmp_path):
    for part in ("train", "val"):
        shutil.copytree(root / part, tmp_path / part)
        shutil.copytree(root / part / "ant", tmp_path / part / ".git")
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"hidden ones: \.git"):
            folder(tmp_path).size(split)


@pytest.fixture
def damaged(root, tmp_path):
    """Return a copy of the images with one of every kind that can't be used, in ``train`` and in ``val``."""
    shutil.copytree(root, tmp_path / "images")
    for part in ("train", "val"):
        place = tmp_path / "images" / part / "bee"
        Image.new("L", (5000, 5000)).save(place / "large.png", compress_level=1)
        Image.new("L", (65_500, 1)).save(place / "thin.png")
        whole = (place / "0.png").read_bytes()
        (place / "1.png").write_bytes(whole[: len(whole) // 2])
        (place / "text.jpg").write_text("no image")
        (place / "empty.jpg").touch()
        (place / "folder.jpg").mkdir()
        shutil.copytree(tmp_path / "images" / part / "ant", tmp_path / "images" / part / ".git")
    return tmp_path / "images"


def test_images_that_can_not_be_used_are_found_before_a_run(damaged):
    shutil.rmtree(damaged / "train" / ".git")
    shutil.rmtree(damaged / "val" / ".git")
    with pytest.raises(DataError) as caught:
        list(folder(damaged).check_data())
    assert str(caught.value).startswith(
        "image_folder: 5 damaged or too large, by headers of 28 images in train and pixels of 24: "
    )
    assert "large.png can't be read as an image (5000 x 5000 pixels, expected at most 20,000,000" in str(caught.value)
    assert str(caught.value).endswith("them, or set data.damaged_images: skip")
    for name in ("large.png", "thin.png", "1.png", "text.jpg", "empty.jpg"):
        (damaged / "train" / "bee" / name).unlink()
    with pytest.raises(DataError, match=r"5 damaged or too large, by headers of 10 images in val"):
        list(folder(damaged).check_data())


def test_damaged_images_and_hidden_folders_are_skipped_with_a_count(damaged, root):
    data = folder(damaged, damaged_images="skip")
    train, val = data.check_data()
    assert train.startswith("data: headers of 28 images in train and pixels of 24, 4 skipped and 1 replaced by the next: ")
    assert val.startswith("data: headers of 10 images in val and pixels of 6, 4 skipped and 1 replaced by the next: ")
    assert train.endswith("hidden folders skipped: .git")
    assert (data.size("train") + data.size("search"), data.size("test"), data.classes) == (24, 6, 2)
    images, labels = (torch.cat(part) for part in zip(*data.batches("test", 4, None, None), strict=True))
    whole = torch.cat([images for images, _ in folder(root).batches("test", 4, None, None)])
    assert torch.equal(images[:4], whole[:4])
    assert torch.equal(images[4], whole[5])  # The next image has taken the place of half a one.
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_only_decoding_shows_to_be_damaged_are_counted_and_named_once(damaged, caplog, workers):
    data = folder(damaged, damaged_images="skip", workers=workers)
    with caplog.at_level("WARNING", logger="search"):
        for _ in range(2):
            for split in ("train", "search", "test"):
                list(data.batches(split, 1, seeded(0), None))
    lines = [record.getMessage() for record in caplog.records]
    half = sorted(str(damaged / part / "bee" / "1.png") for part in ("train", "val"))
    assert len(lines) == 2
    for number, (line, path) in enumerate(zip(lines, half, strict=True), start=1):
        assert f"that can't be decoded, replaced by the next: 1 new, {number} in all: {path} can't be read" in line


def test_a_folder_without_classes_is_named(tmp_path):
    fill(tmp_path, "train/.git", "val/.git")
    data = folder(tmp_path, damaged_images="skip")
    with pytest.raises(MissingDataError, match=r"images as train/CLASS/\*.jpg"):
        data.size("train")
    with pytest.raises(MissingDataError, match="there is no such folder"):
        list(folder(tmp_path / "nowhere").check_data())


def test_sound_images_are_counted(root):
    train, val = folder(root).check_data()
    assert train == "data: headers of 24 images in train and pixels of 24"
    assert val == "data: headers of 6 images in val and pixels of 6"


def test_only_a_sample_is_decoded(root, monkeypatch):
    monkeypatch.setattr(image_folder, "SAMPLED", 5)
    assert next(iter(folder(root).check_data())) == "data: headers of 24 images in train and pixels of 5"


def test_a_split_without_an_image_to_take_the_place_of_a_damaged_one(root, tmp_path):
    fill(tmp_path, "train/ant", "train/bee", "val/ant", "val/bee")
    for name in ("ant", "bee"):
        whole = (root / "val" / name / "0.png").read_bytes()
        (tmp_path / "val" / name / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no image of a split can be decoded"):
        list(folder(tmp_path, damaged_images="skip", search_size=1).batches("test", 2, None, None))


def test_a_system_without_files_is_no_damage(root, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", refuse)
    for split in ("refuse", "skip"):
        with pytest.raises(OSError, match="Too many open files"):
            list(folder(root, damaged_images=split).check_data())


@pytest.mark.parametrize("pixels", [24_000_000, 200_000_000])
def test_a_decompression_bomb_is_named_without_a_traceback(root, tmp_path, pixels):
    shutil.copytree(root, tmp_path / "images")
    data = folder(tmp_path / "images")
    bomb = Path(data.samples("train")[0][0])
    header = bomb.read_bytes()
    # Width and height stand behind the signature and the name of the first chunk, which a checksum follows.
    chunk = b"IHDR" + (pixels // 4000).to_bytes(4, "big") + (4000).to_bytes(4, "big") + header[24:29]
    bomb.write_bytes(header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:])
    with pytest.raises(DataError, match=r"png can't be read as an image \(.*pixels"):
        next(iter(data.batches("train", 2, None, None)))


def test_of_many_images_some_headers_are_read_and_the_rest_when_decoded(damaged, monkeypatch):
    monkeypatch.setattr(image_folder, "HEADERS", 7)
    data = folder(damaged, damaged_images="skip")
    train, val = data.check_data()
    assert train.startswith("data: headers of 7 of 28 images in train and pixels of 2")
    assert val.startswith("data: headers of 7 of 10 images in val and pixels of ")
    images = torch.cat([images for images, _ in data.batches("test", 4, None, None)])
    assert torch.isfinite(images).all()
    assert len(images) == data.size("test") > 6
