"""What a grid says, as a person writes it, a file or Python."""

import numpy as np
import pytest

from vitctl.errors import SettingError
from vitctl.settings.grid import as_text, flat, grid_of, grid_texts, split_values, unquoted


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1e-4,3e-4", ["1e-4", "3e-4"]),
        ("[0.9,0.95], none", ["[0.9,0.95]", "none"]),
        ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']),
        ("a(b,c)d,e", ["a(b,c)d", "e"]),
        ("a,,b", ["a", "", "b"]),
        ("x)y,z", ["x)y", "z"]),
    ],
)
def test_values_are_parted_at_commas__not_within_brackets_or_quotes(text: str, parts: list[str]) -> None:
    assert split_values(text) == parts


def test_grid__in_the_order_given() -> None:
    assert grid_of(["lr=1,2", "tune=full,lora:8"]) == {"lr": ("1", "2"), "tune": ("full", "lora:8")}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["lr"], "'lr'; expected KEY=V1,V2"),
        (["=1,2"], "expected KEY=V1,V2"),
        (["lr="], "expected KEY=V1,V2"),
        (["lr=1,,2"], "expected KEY=V1,V2"),
        (["lr=1", "lr=2"], "names lr twice"),
        (["lr", "=2"], "has 2 mistakes"),
    ],
)
def test_grid__what_is_none_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        grid_of(texts)
    assert caught.value.field == "grid"


@pytest.mark.parametrize(
    "value", ["plain", "a,b", 'say "a,b"', "'quoted'", "[x", 1e-05, 3, "0.1", "with blank "], ids=repr
)
def test_values_of_python__are_read_back(value: object) -> None:
    text = as_text(value)
    assert split_values(text) == [text]
    assert unquoted(text) == str(value)


def test_grid_of_python() -> None:
    grid = {"lr": [1e-4, np.float64(0.25)], "flip": [True, None], "optimizer.betas": [(0.9, 0.95)], "tune": "full,head"}
    assert grid_texts(grid) == ("lr=0.0001,0.25", "flip=true,none", "optimizer.betas=[0.9, 0.95]", "tune=full,head")
    assert grid_texts("lr=1,2") == ("lr=1,2",)
    with pytest.raises(SettingError, match="no values of lr"):
        grid_texts({"lr": []})


def test_tables_within_a_table__are_sections() -> None:
    assert flat({"lr": 1, "optimizer": {"weight_decay": 2}}) == {"lr": 1, "optimizer.weight_decay": 2}
