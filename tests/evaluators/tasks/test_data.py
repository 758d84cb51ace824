import math
import os
import sys
from pathlib import Path

import pytest
import torch

from evaluators.task import MissingDataError
from evaluators.tasks.augmentation import normalize, random_crop, random_flip
from evaluators.tasks.data import DataError, DataSettings, split_indices
from evaluators.tasks.idx_file import read_bytes
from evaluators.tasks.in_memory import Images, InMemory
from evaluators.tasks.small_images import CIFAR10, CIFAR100, Digits, DigitsSettings, FashionMNIST


class Numbered(InMemory):
    """Images whose every pixel is the image's number in the training set."""

    classes = 5
    mean = (0.0,)
    std = (1.0,)
    natural = ("crop", "flip")

    def load(self, training):
        numbers = torch.arange(200 if training else 50)
        return Images(numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 6, 6).contiguous(), numbers)


def numbered(**options) -> Numbered:
    return Numbered(DataSettings(**{"search_size": 40, **options}))


def labels(data, split, generator=None, size=16, limit=None) -> list[int]:
    return [int(label) for _, found in data.batches(split, size, generator, limit) for label in found]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_train_and_search_never_overlap_and_cover_the_training_set():
    data = numbered()
    train, search = labels(data, "train"), labels(data, "search")
    assert len(search) == data.size("search") == 40
    assert len(train) == data.size("train") == 160
    assert sorted(train + search) == list(range(200))
    assert search != sorted(search)
    assert data.size("test") == 50


def test_calibration_samples_are_held_out_of_training_and_change_nothing_else():
    plain, data = numbered(), numbered(calibration_size=30)
    assert (plain.calibration_split, data.calibration_split) == ("train", "calibration")
    held, train = labels(data, "calibration"), labels(data, "train")
    assert len(held) == data.size("calibration") == 30
    assert sorted(train + labels(data, "search") + held) == list(range(200))
    assert labels(data, "search") == labels(plain, "search")
    assert data.fingerprint != plain.fingerprint == numbered(calibration_size=0).fingerprint
    assert labels(numbered(calibration_size=30, train_size=10), "train") == train[:10]
    with pytest.raises(DataError, match="search_size 40 and calibration_size 160 leave nothing to train on"):
        numbered(calibration_size=160).size("train")
    with pytest.raises(ValueError, match="calibration_size: expected at least 0"):
        numbered(calibration_size=-1)


def test_splits_depend_on_the_split_seed_only():
    assert labels(numbered(), "search") == labels(numbered(), "search")
    assert labels(numbered(), "search") != labels(numbered(split_seed=1), "search")


def test_train_size_takes_the_first_of_the_fixed_order():
    assert labels(numbered(train_size=30), "train") == labels(numbered(), "train")[:30]
    assert labels(numbered(train_size=30), "search") == labels(numbered(), "search")


def test_a_generator_fixes_order_and_augmentation_and_drops_the_rest():
    data = numbered()
    first = [(i.clone(), t) for i, t in data.batches("train", 48, seeded(3), None)]
    second = list(data.batches("train", 48, seeded(3), None))
    other = list(data.batches("train", 48, seeded(4), None))
    assert [len(t) for _, t in first] == [48, 48, 48]
    assert all(torch.equal(a, b) and torch.equal(s, t) for (a, s), (b, t) in zip(first, second, strict=True))
    assert not torch.equal(first[0][1], other[0][1])
    assert set(labels(data, "train", seeded(3), size=16)) == set(labels(data, "train"))


def test_only_training_batches_with_a_generator_are_augmented():
    data = numbered()

    def shifted(split, generator):
        return any(int((i != i[:, :, 3:4, 3:4]).sum()) for i, _ in data.batches(split, 16, generator, None))

    assert shifted("train", seeded(0))
    assert not shifted("train", None)
    assert not shifted("search", None)
    assert not shifted("search", seeded(0))
    assert not any(
        int((i != i[:, :, 3:4, 3:4]).sum()) for i, _ in numbered(augment=False).batches("train", 16, seeded(0), None)
    )


def test_no_batch_draws_from_the_global_generator():
    state = torch.get_rng_state()
    list(numbered().batches("train", 16, seeded(0), None))
    assert torch.equal(state, torch.get_rng_state())


def test_fixed_batches_keep_order_and_limit_whatever_was_asked_before():
    data = numbered()
    whole = labels(data, "search")
    assert labels(data, "search", limit=10) == whole[:10]
    assert labels(data, "search", limit=35) == whole[:35]
    for limit in (35, 10, None):
        for images, found in data.batches("search", 16, None, limit):
            assert torch.allclose(images[:, 0, 0, 0] * 255, found.float())
            assert images.dtype == torch.float32


def test_a_network_that_writes_into_its_inputs_spoils_nothing():
    data = numbered()
    with torch.inference_mode():
        for images, _ in data.batches("search", 16, None, None):
            images.fill_(-1.0)
    for images, found in data.batches("search", 16, None, None):
        assert torch.allclose(images[:, 0, 0, 0] * 255, found.float())


def test_batches_first_read_in_inference_mode_can_be_trained_on_later():
    data = numbered()
    with torch.inference_mode():
        list(data.batches("search", 16, None, None))
    images, _ = next(iter(data.batches("search", 16, None, None)))
    weight = torch.ones(1, requires_grad=True)
    (images * weight).sum().backward()
    assert weight.grad is not None


def test_crop_shifts_every_image_by_itself():
    images = torch.arange(1, 26).reshape(1, 1, 5, 5).expand(64, 2, 5, 5)
    cropped = random_crop(images, 1, seeded(0))
    assert cropped.shape == images.shape
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    windows = {(y, x): padded[:, y : y + 5, x : x + 5] for y in range(3) for x in range(3)}
    found = [next(place for place, window in windows.items() if torch.equal(window, image)) for image in cropped]
    assert len(set(found)) == 9


def test_flip_mirrors_about_half():
    images = torch.arange(3).expand(400, 1, 2, 3)
    flipped = random_flip(images, seeded(0))
    mirrored = sum(int(torch.equal(image, images[0].flip(-1))) for image in flipped)
    assert 160 < mirrored < 240
    assert mirrored + sum(int(torch.equal(image, images[0])) for image in flipped) == 400


def test_normalize_per_channel():
    pixels = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1.0, 1.0]], [[0.0, 2.0]]]])
    torch.testing.assert_close(normalize(pixels, 255.0, (0.5, 0.2), (0.5, 0.1)), expected)


def test_digits_are_normalised_and_split_as_documented():
    data = Digits(DigitsSettings())
    assert (data.size("train"), data.size("search"), data.size("test")) == (1047, 300, 450)
    images = torch.cat([images for images, _ in data.batches("train", 256, None, None)])
    assert images.shape == (1047, 1, 8, 8)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02
    assert set(labels(data, "test")) == set(range(10))
    assert data.example().shape == (1, 1, 8, 8)


def test_fingerprint_follows_content_and_splits_not_place():
    base = numbered().fingerprint
    assert numbered(root="/somewhere/else").fingerprint == base
    others = [numbered(split_seed=1), numbered(search_size=41), numbered(train_size=9), numbered(augment=False)]
    assert len({base, *(data.fingerprint for data in others)}) == 5


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="search_size: expected at least 1"):
        DataSettings(search_size=0)
    with pytest.raises(DataError, match="search_size 200 leaves nothing to train on: the training set has 200"):
        numbered(search_size=200).size("train")
    with pytest.raises(DataError, match=r"expected 1 values for data.mean and data.std"):
        numbered(mean=(0.1, 0.2))


def test_split_indices_are_the_same_on_every_machine():
    found = split_indices(10, DataSettings(search_size=3))
    assert (found["search"].tolist(), found["train"].tolist()) == ([4, 6, 2], [7, 3, 5, 9, 0, 8, 1])


def test_root_comes_from_the_environment_when_not_given(monkeypatch, tmp_path):
    monkeypatch.setenv("SECATEURS_DATA", str(tmp_path))
    assert DataSettings().folder() == tmp_path
    assert DataSettings(root="other").folder() == Path("other").absolute()
    monkeypatch.delenv("SECATEURS_DATA")
    assert DataSettings().folder() == Path("data").absolute()


def test_missing_data_is_found_by_the_variable_it_names(monkeypatch, tmp_path):
    monkeypatch.setenv("SECATEURS_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match=f"looked for .* in {tmp_path} "):
        FashionMNIST(DataSettings()).size("train")


def idx(*shape: int) -> bytes:
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(place % 251 for place in range(math.prod(shape)))


def test_fashion_mnist_is_read_without_torchvision(monkeypatch, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 4)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(count, 2, 3))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(count))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torchvision", None)
        images = FashionMNIST(DataSettings(root=str(tmp_path))).load(training=True)
    assert images.pixels.shape == (6, 1, 2, 3)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.flatten().tolist() == list(range(36))
    assert images.labels.tolist() == list(range(6))
    assert images.labels.dtype == torch.int64
    assert FashionMNIST(DataSettings(root=str(tmp_path))).load(training=False).labels.tolist() == list(range(4))


def test_an_idx_file_that_is_none_is_not_read(tmp_path):
    path = tmp_path / "labels"
    whole = idx(5)
    for content in (b"", whole[:7], whole[:-1], whole + b"0", bytes([0, 0, 9, 1]) + whole[4:], idx(5, 1)):
        path.write_bytes(content)
        assert read_bytes(path, 1) is None
    path.write_bytes(whole)
    assert read_bytes(path, 1).tolist() == list(range(5))


def test_cifar_reads_torchvisions_arrays(monkeypatch):
    import numpy as np
    from torchvision import datasets

    class Fake:
        def __init__(self, root, train, download):
            self.data = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).reshape(2, 32, 32, 3).astype(np.uint8)
            self.targets = [3, 7]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    monkeypatch.setattr(datasets, "CIFAR100", Fake)
    for kind in (CIFAR10, CIFAR100):
        images = kind(DataSettings()).load(training=False)
        assert images.pixels.shape == (2, 3, 32, 32)
        assert images.pixels[0, :, 0, 1].tolist() == [3, 4, 5]
        assert images.labels.tolist() == [3, 7]


@pytest.mark.skipif("SECATEURS_DATA" not in os.environ, reason="set SECATEURS_DATA to a folder with FashionMNIST/raw")
def test_real_fashion_mnist():
    data = FashionMNIST(DataSettings(train_size=1000))
    assert (data.size("train"), data.size("search"), data.size("test")) == (1000, 5000, 10000)
    images = torch.cat([images for images, _ in data.batches("search", 500, None, None)])
    assert images.shape == (5000, 1, 28, 28)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02
    assert torch.bincount(torch.tensor(labels(data, "test"))).tolist() == [1000] * 10
