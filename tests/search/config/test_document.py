from __future__ import annotations

from pathlib import Path

import pytest

from search.config.document import ConfigError, parse_value, read_document, to_yaml

EXPLODING = b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 10)) for level in range(1, 10)
)
NESTED_ALIASES = b"a0: &a0 [1]\n" + b"".join(
    b"a%d: &a%d %s*a%d%s\n" % (level, level, b"[" * 20, level - 1, b"]" * 20) for level in range(1, 200)
)


def message(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"# nothing but a comment\n", "is empty"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"just text", "expected a mapping"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "is not a text file"),
        (b"a: [1, 2\nb: 3\n", "line 2: not valid YAML"),
        (b"a: 1\nb:\n  c: 2\n  c: 3\n", "line 4, b.c: duplicate key 'c'; it already stands in line 3"),
        (b"a: !!python/object/apply:os.system [ls]\n", "is not allowed here"),
        (b"a: !secret x\n", "is not allowed here"),
        (b"a: &loop [*loop]\n", "refers to itself"),
        (b"? [1, 2]\n: 3\n", "a key must be a name"),
        (b"a" * 2_000_000, "2000000 bytes"),
        (b"a:\n  " + b"[" * 10_000 + b"]" * 10_000, "line 2: nested more than 50 deep"),
        (b"{a: " * 10_000, "line 1: nested more than 50 deep"),
        (b"a: [" + b"1," * 25_000 + b"]", "line 1: more than 20000 keys and values"),
        (EXPLODING, "more than 20000 keys and values"),
        (NESTED_ALIASES, "nested more than 50 deep"),
        (b"%YAML 9.9\n---\na: 1", "not valid YAML"),
        (b"a: 1\n---\nb: 2", "line 2: not valid YAML: but found another document"),
        (b"a: 1\nb: 0x" + b"f" * 5000, "line 2, b: expected a whole number of at most 64 bits, got '0xfff"),
        (b"a: " + b"9" * 30, "line 1, a: expected a whole number of at most 64 bits"),
        (b"a: " + b"9" * 5000, "line 1, a: '9999"),
        (b"a: !!int x\n", "line 1, a: 'x' is not a value of type"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    told = message(path)
    assert expected in told
    assert str(path) in told


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("name: x")
    assert "there is no such file" in message(tmp_path / "quickstrat.yaml")
    assert "quickstart.yaml" in message(tmp_path / "quickstrat.yaml")
    assert "is a folder" in message(tmp_path)


def test_values_keep_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: 1\nlist:\n  - b: {c: 2}\n  - d\n")
    document = read_document(path)
    assert document.data == {"a": 1, "list": [{"b": {"c": 2}}, "d"]}
    assert document.origin(("list", 0, "b", "c")) == "line 3"
    assert document.origin(("list", 1)) == "line 4"
    assert document.origin(("list", 0, "b", "missing")) == "line 3"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("5.0e-4", 5e-4),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        (".inf", float("inf")),
        ("1_000", 1000),
        ("010", 10),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("yes", "yes"),
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("", None),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 2}}", {"a": {"b": 2}}),
        ("'5'", "5"),
        ("<= 40%", "<= 40%"),
    ],
)
def test_values_are_read_as_yaml_1_2(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_what_is_written_is_read_to_the_same() -> None:
    data = {"b": [{"x": 5e-5, "é": "off"}, [1, 2]], "a": None, "t": "2024-01-02", "n": "010", "c": "1:30", "e": {}, "p": "<<"}
    assert parse_value(to_yaml(data)) == data
    assert list(parse_value(to_yaml(data))) == list(data)


def test_an_override_that_is_no_yaml_is_named() -> None:
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        parse_value("[" * 10_000)
    with pytest.raises(ValueError, match=r"^'\[1, 2' is not YAML"):
        parse_value("[1, 2")


def test_merge_keys_fill_in_what_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("base: &base {epochs: 3, lr: 1}\nother: {<<: *base, lr: 2}\n")
    assert read_document(path).data["other"] == {"epochs": 3, "lr": 2}
