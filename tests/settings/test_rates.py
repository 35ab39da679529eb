"""``--lr``: one rate, several, or the recipe's own."""

import pytest

from vitctl.errors import SettingError
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.parsing import rates, rates_spelt
from vitctl.settings.sweep import SweepConfig


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1e-4", 1e-4),
        (1e-4, 1e-4),
        (1, 1.0),
        ("1e-4, 3e-4,1e-3", (1e-4, 3e-4, 1e-3)),
        ([1e-4, 3e-4], (1e-4, 3e-4)),
        ((0.1,), 0.1),
        ("grid", "grid"),
    ],
)
def test_rates__are_read_from_text_and_numbers_and_back(given: object, expected: object) -> None:
    found = rates(given, "--lr")
    assert found == expected
    assert rates(rates_spelt(found), "--lr") == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("1e-4,1e-4", "--lr is '1e-4,1e-4'; expected different rates"),
        ("1e-4,0.0001", "expected different rates"),
        ("1e-4,", "expected a learning rate"),
        ("fast", "--lr is 'fast'; expected a learning rate"),
        ("1e-4,grid", "expected a learning rate"),
        ("1e-4,0", "--lr is 0.0; expected a number above 0"),
        ("1e-4,2000", "expected at most 1000"),
        ("inf", "expected a number above 0"),
        ([], "expected a learning rate|empty"),
    ],
)
def test_rates__others_are_refused(given: object, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        FinetuneConfig(lr=given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"resume": "run"}, {"fold": "1/5"}, {"num_processes": 2}, {"recipe_settings": {"lr": 1}}]
)
def test_several_rates__are_refused_where_none_can_be_chosen(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=r"--lr 0\.1,0\.2 and --[a-z-]+ are both given"):
        FinetuneConfig(lr="0.1,0.2", **settings)  # type: ignore[arg-type]


def test_several_rates__of_all_runs_of_a_sweep_are_a_grid() -> None:
    with pytest.raises(SettingError, match=r"--lr is 0\.1,0\.2; .*--grid lr=0\.1,0\.2"):
        SweepConfig(lr="0.1,0.2")  # type: ignore[arg-type]


def test_rate__is_the_only_one() -> None:
    assert FinetuneConfig(lr=0.1).rate == 0.1
    assert FinetuneConfig().rate is None
    with pytest.raises(SettingError, match="expected one rate"):
        FinetuneConfig(lr="grid").rate  # type: ignore[arg-type]  # noqa: B018
