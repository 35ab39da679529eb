import errno
import json
import os
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from vitctl.errors import DataError, ModelError, SettingError, VitctlError
from vitctl.primitives import documents
from vitctl.primitives.documents import (
    MAX_DEPTH,
    MAX_DIGITS,
    UnusableDocument,
    foreign,
    parse_document,
    peek_document,
    read_document,
)
from vitctl.primitives.schemas import Count, Name, Positive, Schema


class Inner(Schema):
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    names: list[Name] | None = None
    share: Positive = 1.0
    layer: str | list[str] | None = None


class Outer(Schema):
    depth: Count
    inner: Inner = Inner()


def read(path: Path, content: str | bytes, schema: Any = Outer, **options: Any) -> Any:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(path, schema, error=ModelError, advice="expected an Outer", **options)


def test_a_document__has_the_types_of_its_schema(tmp_path: Path) -> None:
    content = {"depth": 3, "inner": {"mean": [1, 0.5, 0], "names": ["a", "b"]}, "unknown": [{"any": None}]}
    found = read(tmp_path / "d.json", json.dumps(content))
    assert (found.depth, found.inner.mean, found.inner.names, found.inner.share) == (3, [1, 0.5, 0], ["a", "b"], 1.0)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"depth": "3"}, "depth is '3', not a whole number"),
        ({"depth": True}, "depth is True, not a whole number"),
        ({"depth": 3.0}, "depth is 3.0, not a whole number"),
        ({"depth": 0}, "depth is 0, not a number above 0"),
        ({"depth": 10**20}, "depth is 100000000000000000000, not a number below 2.14748e+09"),
        ({}, "it has no 'depth'"),
        ([], "it holds [], not an object of keys and values"),
        ({"depth": 1, "inner": 5}, "inner is 5, not an object of keys and values"),
        ({"depth": 1, "inner": {"mean": "x"}}, "inner.mean is 'x', not a list"),
        ({"depth": 1, "inner": {"mean": [1, 2]}}, "inner.mean is [1, 2], not a list of at least 3"),
        ({"depth": 1, "inner": {"mean": [1, 2, None]}}, "inner.mean.2 is None, not a number"),
        ({"depth": 1, "inner": {"names": 5}}, "inner.names is 5, not a list"),
        ({"depth": 1, "inner": {"names": ["a", 5]}}, "inner.names.1 is 5, not text"),
        ({"depth": 1, "inner": {"share": float("nan")}}, "it holds the number nan"),
        ({"depth": 1, "inner": {"layer": 5}}, "inner.layer is 5, not text or a list"),
        ({"depth": 1, "inner": {"layer": "x" * 99}, "share": "\ud800"}, r"'\ud800' is no text"),
        ({"depth": 1, "inner": {"layer": ["x" * 999, 5]}}, "inner.layer.1 is 5, not text"),
    ],
)
def test_a_value_that_does_not_fit__is_named_with_its_key(tmp_path: Path, document: object, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(tmp_path / "d.json", json.dumps(document))
    assert str(caught.value).startswith(f"{tmp_path / 'd.json'} cannot be read: {said}")
    assert str(caught.value).endswith("; expected an Outer.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is not JSON: Expecting value (line 1, column 1)"),
        ('{"depth": 1', "it is not JSON"),
        (b"\xff\xfe", "it is not UTF-8 text: invalid start byte at byte 0"),
        ("[" * 100_000, f"it is nested more than {MAX_DEPTH} deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, f"it is nested more than {MAX_DEPTH} deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"it is nested more than {MAX_DEPTH} deep"),
        ("9" * 6000, f"it holds a whole number of more than {MAX_DIGITS} digits"),
        ("9" * (MAX_DIGITS + 1), f"it holds a whole number of more than {MAX_DIGITS} digits"),
        (r'{"depth": 1, "\ud800": 1}', r"'\ud800' is no text: it holds half of a character"),
    ],
)
def test_a_document_that_cannot_be_handled__is_refused_before_its_types(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(ModelError, match="cannot be read: ") as caught:
        read(tmp_path / "d.json", content)
    assert said in str(caught.value)


def test_limits__are_taken(tmp_path: Path) -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(read(tmp_path / "d.json", deepest, list[Any])) == deepest
    assert read(tmp_path / "d.json", "9" * MAX_DIGITS, object) == int("9" * MAX_DIGITS)
    assert read(tmp_path / "d.json", "[1, 2]", list[Any], most_bytes=6) == [1, 2]
    with pytest.raises(ModelError, match="it is larger than 5 bytes"):
        read(tmp_path / "d.json", "[1, 2]", list[Any], most_bytes=5)


def test_names_of_files__may_hold_any_byte(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    found = read(tmp_path / "d.json", json.dumps({"depth": 1, "inner": {"names": [name]}}))
    assert found.inner.names == [name]


def test_halves_of_characters__are_taken_where_asked() -> None:
    assert parse_document(r'{"note": "\ud800"}', dict[str, Any], is_strict=False) == {"note": "\ud800"}
    with pytest.raises(UnusableDocument, match="half of a character"):
        parse_document(r'{"note": "\ud800"}', dict[str, Any])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a = ", "it is not TOML"),
        ("a = " + "9" * 6000, "digits"),
        ("a = 0x" + "f" * 6000, "digits"),  # which Python reads, and cannot show
        ("a = " + "[" * 6000, "deep"),
        (".".join("a" * 30_000) + " = 1", f"a line has more than {MAX_DEPTH} dots"),  # tomllib: minutes, gigabytes
        ('a = "\\ud800"', "it is not TOML"),
    ],
)
def test_toml__is_bounded_likewise(tmp_path: Path, content: str, said: str) -> None:
    assert read(tmp_path / "r.toml", "# .....\na.b = 1", dict[str, Any], syntax="TOML") == {"a": {"b": 1}}
    with pytest.raises(ModelError, match="cannot be read: ") as caught:
        read(tmp_path / "r.toml", content, dict[str, Any], syntax="TOML")
    assert said in str(caught.value)
    with pytest.raises(ModelError, match="it is larger than 262,144 bytes"):
        read(tmp_path / "r.toml", "#" * 2**19, dict[str, Any], syntax="TOML")


def test_what_is_no_file__is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path, said in (
        (tmp_path / "pipe", "it is no regular file"),
        (Path("/dev/zero"), "it is no regular file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "nowhere", "No such file or directory"),
        (tmp_path / "nul\0", "embedded null byte"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(SettingError) as caught:
            read_document(path, dict[str, Any], error=SettingError, advice="expected a file", where="--config X")
        assert str(caught.value) == f"--config X cannot be read: {said}; expected a file."
        assert peek_document(path) == {}


def test_peek__gives_an_object_or_none(tmp_path: Path) -> None:
    for content, found in (('{"a": 1}', {"a": 1}), ("[1]", {}), ('"architecture"', {}), ("{", {})):
        (tmp_path / "d.json").write_text(content)
        assert peek_document(tmp_path / "d.json") == found


def test_size__is_not_read_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "json", None)  # nothing is parsed
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(10 * 2**30)  # takes no room on the disk, nor in memory
    with pytest.raises(ModelError, match="it is larger than 16,777,216 bytes"):
        read_document(tmp_path / "large.json", dict[str, Any], error=ModelError, advice="x")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("one\ntwo"), "X cannot be read (one); expected Y."),
        (KeyError("k"), "X cannot be read ('k'); expected Y."),
        (NotImplementedError(), "X cannot be read (NotImplementedError); expected Y."),
        (OSError(5, "Input/output error"), "X cannot be read (Input/output error); expected Y."),
        (RecursionError("too deep."), "X cannot be read (too deep); expected Y."),
    ],
)
def test_foreign__makes_one_sentence(raised: Exception, said: str) -> None:
    with pytest.raises(DataError) as caught, foreign("X", DataError, expected="Y"):
        raise raised
    assert str(caught.value) == said
    assert caught.value.__cause__ is raised


FULL = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("unable to mmap 9 bytes from file <w.pth>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
)


@pytest.mark.parametrize("raised", [ModelError("ours"), *FULL, KeyboardInterrupt(), SystemExit(3)])
def test_foreign__lets_through_what_means_something_else(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, foreign("X", DataError, expected="Y"):
        raise raised
    assert caught.value is raised


def test_the_error__may_have_its_field() -> None:
    def refuse(text: str) -> VitctlError:
        return SettingError(text, field="config")

    with pytest.raises(SettingError) as caught:
        read_document(Path("nowhere"), dict[str, Any], error=refuse, advice="x")
    assert caught.value.field == "config"


def test_a_document__takes_memory_by_its_size_not_by_what_it_may_have(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    assert read_document(tmp_path / "a.json", list[int], error=ModelError, advice="x", most_bytes=2**60) == [1]


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="Linux has files that do not tell their size")
def test_a_document__that_does_not_tell_its_size_is_read_whole() -> None:
    with pytest.raises(ModelError, match=r"it is not JSON: Expecting value \(line 1, column 1\)"):
        read_document(Path("/proc/version"), list[int], error=ModelError, advice="x")
    with pytest.raises(ModelError, match="larger than 20 bytes"):
        read_document(Path("/proc/version"), list[int], error=ModelError, advice="x", most_bytes=20)
