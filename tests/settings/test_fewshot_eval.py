"""The settings of ``vitctl fewshot-eval``: ranges, lists, contradictions, options that would do nothing."""

from typing import Any

import pytest

from vitctl.errors import SettingError
from vitctl.settings.fewshot_eval import FewshotEvalConfig


def test_defaults__are_those_of_the_documentation() -> None:
    config = FewshotEvalConfig()
    assert config.shot_counts == (1, 5, 10, 25)
    assert config.penalties == (1024.0,)
    assert config.neighbours == (10, 20, 100, 200)
    assert config.ways == (5,)
    assert config.pool == ("native",)
    assert (config.classifier, config.layers, config.preprocess, config.protocol) == (
        "ridge",
        ("last",),
        "model",
        "linear",
    )
    assert (config.episodes, config.queries, config.balance) == (600, 15, "none")


@pytest.mark.parametrize(
    ("shots", "counts"),
    [
        ("10,1,5", (1, 5, 10)),
        ("all", (None,)),
        ("all,5", (5, None)),
        (" 1 , 5 ", (1, 5)),
        ("05,5", (5,)),
        ("all,all", (None,)),
    ],
)
def test_shots__are_ascending_and_each_once(shots: str, counts: tuple[int | None, ...]) -> None:
    assert FewshotEvalConfig(shots=shots).shot_counts == counts


@pytest.mark.parametrize(
    ("l2", "penalties"),
    [("loo", None), (" loo ", None), ("1,32,1024", (1.0, 32.0, 1024.0)), ("1024,1e-3", (1024.0, 0.001))],
)
def test_l2__is_a_list_in_the_order_given_or_chosen(l2: str, penalties: tuple[float, ...] | None) -> None:
    assert FewshotEvalConfig(l2=l2).penalties == penalties


def test_lists__of_neighbours_ways_and_poolings() -> None:
    assert FewshotEvalConfig(classifier="knn", neighbours="20,3").neighbours == (3, 20)
    assert FewshotEvalConfig(protocol="episodes", ways="10,2").ways == (2, 10)
    assert FewshotEvalConfig(pool="mean, cls,mean").pool == ("mean", "cls")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shots": "0"}, r"--shots is '0'; expected whole numbers from 1 \(1,5,10\), or all\."),
        ({"shots": "-1"}, "--shots is '-1'"),
        ({"shots": "5,x"}, "--shots is '5,x'"),
        ({"shots": "1,,5"}, "--shots is '1,,5'"),
        ({"shots": "1.5"}, r"--shots is '1\.5'"),
        ({"shots": "ALL"}, "--shots is 'ALL'"),
        ({"shots": "²"}, "--shots is '²'"),
        ({"shots": "9" * 30}, "--shots is '9"),
        ({"shots": ""}, r"--shots is empty; give it a value, or leave it out\."),
        ({"seeds": 0}, r"--seeds is 0; expected 1 or more\."),
        ({"seeds": 10_001}, "--seeds is 10001; expected at most 10,000"),
        ({"l2": "0"}, r"--l2 is '0'; expected numbers .*\(1,32,1024\), or loo\."),
        ({"l2": "-1"}, "--l2 is '-1'"),
        ({"l2": "nan"}, "--l2 is 'nan'"),
        ({"l2": "inf"}, "--l2 is 'inf'"),
        ({"l2": "1e999"}, "--l2 is '1e999'"),
        ({"l2": "loo,1"}, "--l2 is 'loo,1'"),
        ({"l2": "1,1.0"}, "--l2 is '1,1.0'; expected different numbers"),
        ({"l2": "1,1.00000001"}, "expected different numbers"),  # both are l1 in --predictions
        ({"l2": ""}, "--l2 is empty"),
        ({"classifier": "knn", "neighbours": "0"}, "--neighbours is '0'; expected whole numbers from 1"),
        ({"classifier": "knn", "neighbours": "all"}, "--neighbours is 'all'"),
        ({"classifier": "linear"}, "--classifier is 'linear'; it can be ridge, logistic, knn, centroid"),
        ({"classifier": "rigde"}, "Did you mean 'ridge'"),
        ({"balance": "equal"}, "--balance is 'equal'; it can be none, intercept, weighted"),
        ({"pool": "max"}, r"--pool is 'max'; it can be native, cls, mean, cls\+mean, mean-all, first, tokens"),
        ({"pool": "mean,"}, "--pool is ''"),
        ({"preprocess": "bigvision"}, "--preprocess is 'bigvision'.*Did you mean 'big_vision'"),
        ({"protocol": "episode"}, "--protocol is 'episode'.*Did you mean 'episodes'"),
        ({"on_bad_image": "ignore"}, "--on-bad-image is 'ignore'; it can be fail, skip"),
        ({"device": "gpu"}, "--device is 'gpu'"),
        ({"protocol": "episodes", "ways": "1"}, "--ways is '1'; expected whole numbers from 2"),
        ({"protocol": "episodes", "episodes": 0}, "--episodes is 0"),
        ({"protocol": "episodes", "queries": 0}, "--queries is 0"),
        ({"batch_size": 0}, r"--batch-size is 0; expected 1 or more\."),
        ({"num_threads": 0}, "--num-threads is 0"),
        ({"num_processes": "0"}, "--num-processes is '0'; expected a number from 1 to 1,024, or auto"),
        ({"num_processes": "all"}, "--num-processes is 'all'"),
        ({"num_processes": "1025"}, "--num-processes is '1025'"),
        ({"num_workers": -1}, "--num-workers is -1; expected 0 or more"),
        ({"group_column": "a", "group_pattern": "{group}/*"}, "--group-column and --group-pattern are both given"),
        ({"model": ("a", "b"), "weights": ("none",) * 3}, "--weights is given 3 times and --model 2 times"),
        ({"weights": ("none", "pretrained")}, "--weights is given 2 times and --model 1 times"),
        ({"data": ("a", "b"), "test": ("c",)}, "--test is given 1 times and --data 2 times"),
        ({"test": ("c", "d")}, "--test is given 2 times and --data 1 times"),
        ({"model": ("a", "b", "a")}, "--model a is given twice"),
        ({"model": ("a", "a"), "weights": ("none",)}, "--model a is given twice"),
        ({"model": ("a", "a"), "weights": ("none", "none")}, "--model a is given twice"),
        ({"data": ("a", "a")}, "--data a is given twice"),
        ({"model": ("",)}, "--model is empty"),
        ({"weights": ("",)}, "--weights is empty"),
        ({"data": ("digits", "")}, "--data is empty"),
        ({"test": ("",)}, "--test is empty"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_option(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        FewshotEvalConfig(**settings)


def test_ways__the_example_in_the_sentence_is_itself_allowed() -> None:
    with pytest.raises(SettingError) as caught:
        FewshotEvalConfig(protocol="episodes", ways="1")
    example = str(caught.value).split("(")[1].split(")")[0]
    assert FewshotEvalConfig(protocol="episodes", ways=example).ways


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ways": "3"}, r"--ways is given without --protocol episodes; leave it out\."),
        ({"episodes": 10}, "--episodes is given without --protocol episodes"),
        ({"queries": 10}, "--queries is given without --protocol episodes"),
        ({"protocol": "episodes", "predictions": "p.npz"}, "--predictions is given beside --protocol episodes"),
        ({"protocol": "episodes", "balance": "weighted"}, "--balance is given beside --protocol episodes"),
        ({"protocol": "episodes", "shots": "1,all"}, "--shots all is given beside --protocol episodes"),
        ({"classifier": "knn", "l2": "1"}, "--l2 is given beside --classifier knn, which has no use for it"),
        ({"classifier": "logistic", "l2": "loo"}, "--l2 is given beside --classifier logistic"),
        ({"classifier": "centroid", "balance": "intercept"}, "--balance is given beside --classifier centroid"),
        ({"neighbours": "3"}, "--neighbours is given beside --classifier ridge"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        FewshotEvalConfig(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ("demo",)),
        ("weights", ("none",)),
        ("data", ("digits",)),
        ("test", ("digits",)),
        ("image_root", "/"),
        ("image_column", "a"),
        ("label_column", "a"),
        ("group_column", "a"),
        ("group_pattern", "{group}"),
        ("on_bad_image", "skip"),
        ("layers", "all"),
        ("pool", "mean"),
        ("image_size", "32"),
        ("preprocess", "big_vision"),
        ("cache", "c"),
        ("batch_size", 7),
        ("num_workers", 1),
        ("device", "cpu"),
        ("num_processes", 2),
    ],
)
def test_features__stand_for_models_and_data(name: str, value: Any) -> None:
    option = "--" + name.replace("_", "-")
    with pytest.raises(SettingError, match=f"{option} is given beside --features, which holds the features of images"):
        FewshotEvalConfig(features="f.npz", **{name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"l2": "loo"},
        {"classifier": "knn", "neighbours": "3"},
        {"protocol": "episodes", "ways": "2"},
        {"predictions": "p.npz", "l2": "1,2"},
        {"balance": "weighted", "seeds": 2, "out": "o", "num_threads": 1},
    ],
)
def test_features__go_with_what_concerns_classifiers(settings: dict[str, Any]) -> None:
    assert FewshotEvalConfig(features="f.npz", **settings).features == "f.npz"


@pytest.mark.parametrize(
    "settings",
    [
        {"model": ("a", "b")},
        {"model": ("a", "a"), "weights": ("none", "pretrained")},
        {"data": ("a", "b")},
        {"pool": "cls,mean"},
        {"pool": "tokens"},
        {"layers": "all"},
        {"layers": "0,final"},
    ],
)
def test_predictions__are_of_one_model_data_set_layer_and_pooling(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="--predictions is given for several"):
        FewshotEvalConfig(predictions="p.npz", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": ("a",), "data": ("b",), "layers": "0", "pool": "cls"},
        {"classifier": "knn", "neighbours": "1,2"},
        {"shots": "all,1"},
    ],
)
def test_predictions__of_several_shots_and_settings_are_kept_apart_by_name(settings: dict[str, Any]) -> None:
    assert FewshotEvalConfig(predictions="p.npz", **settings).predictions == "p.npz"


def test_models__one_weights_for_all_or_one_for_each() -> None:
    for weights in (None, ("none",), ("none", "pretrained")):
        assert FewshotEvalConfig(model=("a", "b"), weights=weights).weights == weights
    twice = FewshotEvalConfig(model=("a", "a"), weights=("none", "pretrained"))
    assert twice.model == ("a", "a")
