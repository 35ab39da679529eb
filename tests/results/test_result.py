"""Results: fields become keys, keys become documents, and a repr stays short. Every field says what it is."""

import ast
import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path

import pytest

import vitctl
from vitctl.results.evaluate import ClassResult, EvaluateResult
from vitctl.results.fewshot_eval import FewshotRow
from vitctl.results.finetune import Score
from vitctl.results.inspect_model import InspectResult
from vitctl.results.models import ModelEntry, Tag
from vitctl.results.recipes import RecipeResult, RecipeSetting
from vitctl.results.result import JsonValue, Result, key, left_out_if_none, plain

FOLDER = Path(vitctl.__file__).parent / "results"


@dataclass(frozen=True, repr=False)
class Part(Result):
    number: int
    size: tuple[int, int] | None = None


@dataclass(frozen=True, repr=False, kw_only=True)
class Whole(Result):
    class_name: str = field(metadata=key("class"))
    parts: tuple[Part, ...]
    by_name: Mapping[str, Part]
    unknown: float | None = None
    extra: int | None = field(default=None, metadata=left_out_if_none())
    of_extra: float | None = field(default=None, metadata=left_out_if_none("extra"))
    words: str = field(default="w", repr=False)


@dataclass(frozen=True, repr=False)
class Outer(Result):
    small: Part
    large: Whole


WHOLE = Whole(class_name="cat", parts=(Part(1), Part(2, (3, 4))), by_name={"a": Part(5)})


def test_document__in_the_order_of_the_fields_with_lists_and_nulls() -> None:
    expected = {
        "class": "cat",
        "parts": [{"number": 1, "size": None}, {"number": 2, "size": [3, 4]}],
        "by_name": {"a": {"number": 5, "size": None}},
        "unknown": None,
        "words": "w",
    }
    assert json.dumps(WHOLE.as_json()) == json.dumps(expected)


@pytest.mark.parametrize(("extra", "of_extra"), [(0, None), (0, 0.5)])
def test_document__a_key_that_is_left_out_without_another_is_null_beside_it(extra: int, of_extra: float | None) -> None:
    document = Whole(class_name="cat", parts=(), by_name={}, extra=extra, of_extra=of_extra).as_json()
    assert (document["extra"], document["of_extra"]) == (extra, of_extra)
    assert "of_extra" not in Whole(class_name="cat", parts=(), by_name={}, of_extra=1.0).as_json()


def test_document__is_a_copy() -> None:
    given: dict[str, JsonValue] = {"a": [1, (2, 3)]}
    told = plain(given)
    assert told == {"a": [1, [2, 3]]}
    given["a"] = None
    assert told == {"a": [1, [2, 3]]}


def test_result__cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        WHOLE.class_name = "dog"  # type: ignore[misc]


def test_repr__numbers_and_names_but_no_wall_of_text() -> None:
    assert repr(WHOLE) == (
        "Whole(class_name='cat', parts=<2 Part>, by_name=<1 keys>, unknown=None, extra=None, of_extra=None)"
    )
    assert repr(Score(3, 0.5, None)) == str(Score(3, 0.5, None)) == "Score(step=3, top1=0.5, loss=None)"
    assert repr(Part(1, (2, 3))) == "Part(number=1, size=(2, 3))"
    assert repr(Score(1, 1 / 3, 1.2345678e-9)) == "Score(step=1, top1=0.33333, loss=1.2346e-09)"


def test_repr__shows_small_parts_and_names_large_ones() -> None:
    large = Whole(class_name="cat" * 9, parts=(), by_name={})
    assert repr(Outer(Part(1), large)) == "Outer(small=Part(number=1, size=None), large=<Whole>)"


def test_repr__of_a_thousand_classes_fits_a_few_lines() -> None:
    row = ClassResult(class_name="c" * 500, num_images=1, precision=None, recall=1.0, f1=0.5)
    result = EvaluateResult(
        model="m", data="d", split="val", image_size=(8, 8), top1=0.5, top1_ci95=(0.4, 0.6),
            baseline_top1=0.5, baseline_class="c", baseline_p=1.0, top5=1.0,
        balanced_accuracy=0.5, macro_f1=0.5, nll=1.0, ece=0.1, num_images=2, num_skipped=0,
        per_class=(row,) * 1000, out="/out" * 100,
    )  # fmt: skip
    assert len(repr(result)) < 500
    assert "top1=0.5, top1_ci95=(0.4, 0.6)" in repr(result)
    assert "per_class=<1000 ClassResult>" in repr(result)
    assert len(repr(row)) < 200


def test_repr__of_an_analysis_leaves_its_words_out() -> None:
    words = "long " * 100
    result = InspectResult(
        analysis="cka", title="CKA", results=(), images=None, arrays={"a": words}, method=words, look_for=words,
        random_weights=words, source=words, settings={}, files=("a", "b", "c"), out="/out",
    )  # fmt: skip
    expected = "InspectResult(analysis='cka', title='CKA', results=(), images=None, files=('a', 'b', 'c'), out='/out')"
    assert repr(result) == expected
    assert result.as_json()["method"] == words


# --- documents whose keys depend on what there is ------------------------------------------------------------


def test_model_entry__of_a_name_is_the_name_and_of_a_cnn_has_nulls() -> None:
    assert ModelEntry("demo").as_json() == {"name": "demo"}
    entry = ModelEntry("cnn", (8, 8), None, None, None, 10, (Tag("", None),))
    assert entry.as_json() == {
        "name": "cnn",
        "image_size": [8, 8],
        "patch_size": None,
        "grid": None,
        "tokens": None,
        "parameters": 10,
        "pretrained": [{"tag": "", "license": None}],
    }


def a_row(**changed: object) -> FewshotRow:
    usual: dict[str, object] = {"data": "d", "model": None, "layer": 0, "pool": "native", "classifier": "ridge"}
    usual |= {"shots": 1, "l2": None, "neighbours": None, "top1_mean": 0.5, "top1_std": None, "top1_ci95": (0.0, 1.0)}
    usual |= {"top1_ci95_support": None, "top1_per_seed": (0.5,), "num_support": 2, "num_test": 3, "num_classes": 2}
    return FewshotRow(**(usual | {"cosine_within": None, "cosine_between": None} | changed))  # type: ignore[arg-type]


def test_fewshot_row__draws_and_episodes_have_keys_of_their_own() -> None:
    of_draws = {"top1_mean_first3", "num_short_classes", "l2_per_seed"}
    of_episodes = {"ways", "queries", "episodes", "top1_ci95_half_width"}
    draws = a_row(num_short_classes=0, l2_per_seed=(None,)).as_json()
    assert draws["top1_mean_first3"] is None  # of one seed
    assert of_draws <= set(draws)
    assert not of_episodes & set(draws)
    episodes = a_row(ways=2, queries=1, episodes=5, top1_ci95_half_width=0.1).as_json()
    assert set(episodes) - set(draws) == of_episodes
    assert set(draws) - set(episodes) == of_draws


def test_recipe__its_settings_are_the_document() -> None:
    recipe = RecipeResult(settings={"lr": RecipeSetting(0.1, "guess")})
    assert recipe.as_json() == {"lr": {"value": 0.1, "source": "guess"}}


# --- the files -----------------------------------------------------------------------------------------------


def undocumented_fields(source: str) -> list[str]:
    """Return the fields of classes that no docstring follows."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
                is_told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                if isinstance(statement, ast.AnnAssign) and not is_told:
                    found.append(f"{node.name}.{ast.unparse(statement.target)}")
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_fields_have_docstrings(path: Path) -> None:
    assert undocumented_fields(path.read_text(encoding="utf-8")) == []


def test_fields_have_docstrings__the_check_can_fail() -> None:
    assert undocumented_fields("class A:\n    b: int\n    c: int\n    '''Told.'''\n    d: int\n") == ["A.b", "A.d"]
