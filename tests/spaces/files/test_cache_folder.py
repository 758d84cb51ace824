from pathlib import Path

from spaces.files.cache_folder import cache_folder


def test_the_folder_is_that_of_the_variable_or_in_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SECATEURS_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("SECATEURS_CACHE")
        else:
            monkeypatch.setenv("SECATEURS_CACHE", unset)
        assert cache_folder() == Path(tmp_path, ".cache", "secateurs")
