import os
import shutil
import time
from pathlib import Path

import pytest
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from evaluators.tasks import image_listing
from evaluators.tasks.data import DataError
from evaluators.tasks.image_listing import list_images, listing_file

IMAGES = (
    *(
        "ant/1.png",
        "ant/10.JPEG",
        "ant/2.Jpg",
        "ant/notes.txt",
        "ant/noending",
        "ant/b/3.png",
        "ant/b c/4.png",
        "ant/b-d/5.png",
    ),
    *("ant/b/deep/6.png", "ant/.thumbs/7.png", "bee/ä ö\n.png", "Wasp/.jpg", ".git/8.png", "fly/none.txt"),
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEURS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_listing, "SETTLED", 0)
    folder = tmp_path / "data" / "train"
    for name in IMAGES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "file.png").touch()
    (folder / "bee" / "folder.jpg").mkdir()
    settle()
    return folder


@pytest.fixture
def scans(monkeypatch):
    """Return the folders that are listed, as they are."""
    seen: list[str] = []
    scan = image_listing._scanned
    monkeypatch.setattr(image_listing, "_scanned", lambda path: seen.append(str(path)) or scan(path))
    return seen


def settle():
    # Clocks of file systems stand still for some milliseconds.
    time.sleep(0.02)


def forget():
    """Do as a new process does."""
    image_listing._LISTED.clear()


def listed(place):
    """Return the listing, which is that of torchvision."""
    samples, names = list_images(place)
    assert names == sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    numbers = {name: number for number, name in enumerate(names)}
    assert samples == make_dataset(str(place), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    return samples


def test_images_and_classes_come_in_the_order_of_torchvision(place):
    assert len(listed(place)) == 10
    forget()
    assert len(listed(place)) == 10


def test_a_folder_is_listed_once_by_all_processes(place, scans):
    listed(place)
    assert len(scans) == len(set(scans)) == 10
    listed(place)
    forget()
    listed(place)
    assert len(scans) == 10
    assert [file.name for file in (place.parents[1] / "cache").iterdir()] == [listing_file(place).name]


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("folder", ["bee", "ant/b/deep"])
def test_a_changed_folder_alone_is_listed_again(place, scans, folder, anew):
    before = listed(place)
    scans.clear()
    (place / folder / "new.png").touch()
    settle()
    if anew:
        forget()
    assert len(listed(place)) == len(before) + 1
    (place / folder / "new.png").rename(place / folder / "newer.png")
    assert f"{place / folder}/newer.png" in dict(listed(place))
    (place / folder / "newer.png").unlink()
    assert listed(place) == before
    assert set(scans) == {str(place / folder)}


def test_another_folder_with_the_old_modification_time_is_listed_again(place):
    listed(place)
    state = (place / "bee").stat()
    (place / "bee" / "new.png").touch()
    os.utime(place / "bee", ns=(state.st_atime_ns, state.st_mtime_ns))
    forget()
    assert f"{place}/bee/new.png" in dict(listed(place))


def test_classes_and_inner_folders_come_and_go(place):
    listed(place)
    shutil.rmtree(place / "ant" / "b")
    shutil.rmtree(place / "Wasp")
    (place / "asp" / "in").mkdir(parents=True)
    (place / "asp" / "in" / "1.png").touch()
    forget()
    assert len(listed(place)) == 8


def test_a_folder_that_has_just_changed_is_not_kept(place, scans, monkeypatch):
    monkeypatch.setattr(image_listing, "SETTLED", 60_000_000_000)
    listed(place)
    listed(place)
    assert len(scans) == 20
    assert not listing_file(place).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', '{"folders": 1}', "cut", "changed", "outside", "other"])
def test_a_damaged_or_foreign_file_is_made_again(place, scans, content):
    before = listed(place)
    path = listing_file(place)
    kept = path.read_bytes()
    without = b"{" + kept[kept.index(b'"format"') :]
    path.write_bytes(
        {
            "cut": kept[: len(kept) // 2],
            "changed": kept.replace(b"10.JPEG", b"11.JPEG"),
            "outside": without.replace(b"1.png/", b"./../1.png/"),
            "other": without.replace(b".png/", b".text/"),
        }.get(content, content.encode())
    )
    scans.clear()
    forget()
    assert listed(place) == before
    assert len(scans) == 10
    assert path.read_bytes() == kept


def test_links_are_followed_and_what_they_lose_is_noticed(place, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "1.png").touch()
    (place / "bee" / "more").symlink_to(tmp_path / "more")
    (place / "fly" / "away").symlink_to(tmp_path / "later")
    (place / "fly" / "self").symlink_to(place / "fly" / "self")
    settle()
    assert len(listed(place)) == 11
    (tmp_path / "more").rename(tmp_path / "later")
    forget()
    assert f"{place}/fly/away/1.png" in dict(listed(place))


def test_names_that_are_no_text_are_listed_each_time(place):
    (place / "bee" / os.fsdecode(b"\xff.png")).touch()
    (place / os.fsdecode(b"\xfe")).mkdir()
    settle()
    for _ in range(2):
        assert len(listed(place)) == 11
        forget()
    assert b'"bee"' not in listing_file(place).read_bytes()


def test_nothing_is_kept_among_the_classes_or_where_nothing_can_be(place, monkeypatch):
    monkeypatch.setenv("SECATEURS_CACHE", str(place / "bee"))
    listed(place)
    assert not list(place.rglob("*.json"))
    forget()
    (place.parents[1] / "no_folder").touch()
    monkeypatch.setenv("SECATEURS_CACHE", str(place.parents[1] / "no_folder" / "cache"))
    listed(place)
    forget()
    monkeypatch.delenv("SECATEURS_CACHE")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    listed(place)


def test_a_folder_that_can_not_be_read_is_named(place, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"ant/b/deep can't be listed \(Permission denied\)"):
        list_images(place)
