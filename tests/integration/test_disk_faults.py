"""A run folder whose disk fills up, or can't be written: a clear message, and nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from search.config import load
from search.export import load as load_best
from search.output.disk_errors import DiskError
from search.pipeline import run
from tests.integration.tiny_pipeline import SHORT, command, read_report, timeless, write_config


class Disk(Protocol):
    """A place that has only so much room."""

    path: Path

    def resize(self, size: int) -> None: ...

    def close(self) -> None: ...


class SmallDisk:
    """A file system in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], check=True, capture_output=True)

    def resize(self, size: int) -> None:
        self._remount(f"size={size // 1024}k")

    def read_only(self) -> None:
        self._remount("ro")

    def _remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True, capture_output=True)

    def close(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)


class SmallFiles:
    """A folder in which no file may become larger than a limit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def resize(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._hard))

    def close(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._hard, self._hard))


def small_disk(path: Path) -> SmallDisk:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root and mount")
    try:
        return SmallDisk(path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.decode().strip()}")


@pytest.fixture(params=["small disk", pytest.param("small files", marks=pytest.mark.slow)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made: Disk = small_disk(tmp_path / "disk") if request.param == "small disk" else SmallFiles(tmp_path / "disk")
    yield made
    made.close()


@pytest.fixture(scope="module")
def uninterrupted(recorded: Callable[[str], Path]) -> Path:
    return recorded(SHORT)


@pytest.mark.slow
def test_a_disk_that_fills_up_again_and_again_loses_nothing(disk: Disk, uninterrupted: Path, tmp_path: Path) -> None:
    config, folder = load(write_config(tmp_path, SHORT)), disk.path / "tiny"
    report, size, messages = None, 4 * 1024, []
    while report is None:
        disk.resize(size)
        try:
            report = run(config, folder, None)
        except DiskError as error:
            messages.append(str(error))
            if (folder / "best").exists():
                load_best(folder)
        assert size < 2**26, "the run never got through"
        size = size * 3 // 2
    assert len(messages) >= 5
    assert all("make room, and the same command goes on" in text for text in messages)
    assert all("the disk is full" in text or "the file size limit is reached" in text for text in messages)
    assert timeless(report) == timeless(read_report(uninterrupted))
    assert load(folder / "config.yaml").canonical() == config.canonical()


@pytest.mark.slow
def test_a_read_only_run_folder_is_refused_with_2(tmp_path: Path) -> None:
    disk = small_disk(tmp_path / "disk")
    try:
        config = write_config(tmp_path, SHORT)
        disk.resize(8 * 1024)
        with pytest.raises(DiskError, match="the disk is full"):
            run(load(config), disk.path / "tiny", None)
        disk.read_only()
        with pytest.raises(DiskError, match=r"it is read-only.*Make it writable, or choose another place with --runs"):
            run(load(config), disk.path / "other", None)
        done = command(config, disk.path)
        assert done.returncode == 2
        assert f"cannot write to {disk.path / 'tiny'}: it is read-only" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        disk.close()


@pytest.mark.usefixtures("no_pictures")
def test_a_torn_study_is_told_in_the_log(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(uninterrupted, folder)
    journal = folder / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    whole = journal.stat().st_size - 20
    assert timeless(run(load(write_config(tmp_path, SHORT)), folder, None)) == timeless(read_report(uninterrupted))
    assert journal.stat().st_size == whole
    assert "study.journal: cut off 20 bytes of a torn record at its end" in (folder / "log.txt").read_text()
