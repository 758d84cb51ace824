from __future__ import annotations

import pytest
from sqlalchemy.engine import make_url

from search.config.storage_url import StorageError, StorageUrl, hide_passwords

SECRET = "hunter2/@x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://u:hunter2@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql://u:hunter2/@x@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://:hunter2@h/d", "postgresql://:***@h/d"),
        ("postgresql://u@h/d?password=hunter2&x=1", "postgresql://u@h/d?password=***&x=1"),
        ("mysql+pymysql://u@h/d?ssl_key_password=hunter2", "mysql+pymysql://u@h/d?ssl_key_password=***"),
        ("postgresql://u:${PGPASSWORD}@h/d", "postgresql://u:${PGPASSWORD}@h/d"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("postgresql://u:ab hunter2@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:ab'hunter2@h/d", "postgresql://u:***@h/d"),
        ("postgresql://dom/u:hunter2@h/d", "postgresql://***@h/d"),
        ("postgresql:///u:hunter2@h/d", "postgresql://***@h/d"),
        ("postgresql://h/d?user=u&pass=hunter2", "postgresql://h/d?user=u&pass=***"),
        ("https://me:hunter2@example.org/x", "https://me:***@example.org/x"),
        ("see http://localhost:8080/ and mail a@b", "see http://localhost:8080/ and mail a@b"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert hide_passwords(text) == shown
    assert hide_passwords(f"error in '{text}': no") == f"error in '{shown}': no"


def test_the_environment_is_filled_in_and_its_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", SECRET)
    monkeypatch.setenv("HOST", "db.example")
    monkeypatch.setenv("WHOLE", f"postgresql://u:{SECRET}@h/d")
    url = StorageUrl("postgresql://u:${PW}@${HOST}/d")
    assert url.filled() == "postgresql://u:hunter2/%40x@db.example/d"
    assert make_url(url.filled()).password == SECRET
    assert make_url(url.filled()).host == "db.example"
    assert str(url) == "postgresql://u:${PW}@db.example/d"
    assert str(StorageUrl("postgresql://u:a${PW}@h/d")) == "postgresql://***@h/d"
    assert str(StorageUrl("${WHOLE}")) == "postgresql://***@h/d"
    assert str(StorageUrl("postgresql://u@h/d?password=${PW}")) == "postgresql://u@h/d?password=${PW}"
    for shown in (repr(url), str(url), repr(StorageUrl("${WHOLE}"))):
        assert SECRET not in shown


def test_only_the_password_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", SECRET)
    same = {StorageUrl(f"postgresql://u:{word}@h/d").identity for word in ("a", "b", "${PW}", "***")}
    assert same == {"postgresql://u:***@h/d"}
    assert StorageUrl("postgresql://u:a@other/d").identity not in same


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("postgresql://u:${NOT_SET_ANYWHERE}@h/d", r"NOT_SET_ANYWHERE\} is not set"),
        ("study.db", "expected a database URL.*got study.db;"),
        ("u:hunter2@h/d", r"expected a database URL.*got \*\*\*;"),
        ("host=h user=u password=hunter2", r"expected a database URL.*got \*\*\*;"),
        ("postgresql:/u:hunter2@h/d", r"expected a database URL.*got \*\*\*;"),
        ("postgresql://dom/u:hunter2@h/d", r"can't tell .* of postgresql://\*\*\*@h/d apart"),
        ("postgresql:///u:hunter2@h/d", r"can't tell .* of postgresql://\*\*\*@h/d apart"),
        ("postgresql://u:hunter2@h:54x2/d?x=hunter2", r"can't tell .* of postgresql://\*\*\*@h:54x2/d\?x=\*\*\* apart"),
        ("postgresql://u:***@h/d", "was hidden when the configuration was saved"),
        ("sqlite://", "keeps nothing"),
        ("sqlite:///:memory:", "keeps nothing"),
        ("sqlite:////nowhere/at/all/study.db", "no folder /nowhere/at/all"),
    ],
)
def test_what_can_not_be_a_storage(text: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        StorageUrl(text).filled()
    assert "hunter2" not in str(caught.value) + str(StorageUrl(text)) + repr(StorageUrl(text)) + StorageUrl(text).identity


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:ab hunter2@h/d",
        "postgresql://u@corp:hunter2@h/d",
        "postgresql://u:hunter2%40@h/d",
        "postgresql://h/d?user=u&pass=hunter2",
        "postgresql://u:hunter2@h:54x2/d",
        "postgresql://u:/hunter2@h/d",
        "postgresql:///u:hunter2@h/d",
        "hunter2@h/d",
    ],
)
def test_a_drivers_message_is_shown_without_the_password(text: str) -> None:
    url = StorageUrl(text)
    for said in (f"cannot read {text!r}", "invalid integer value 'hunter2'", f'database "{text[13:]}" does not exist'):
        assert "hunter2" not in url.hide(said)
    assert "hunter2" not in str(url) + url.identity
    assert url.hide("connection refused by h") == "connection refused by h"
