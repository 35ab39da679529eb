"""What few-shot classifiers are tried on: images or features, and the supports or episodes drawn of them.

Supports are drawn from the labels first; only the images they use, and the test images, are looked at and embedded.

Letters: U support rows that some draw uses, M test rows, D width, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from vitctl.conversation import Conversation, Setting
from vitctl.data.endings import left_out_settings
from vitctl.data.scan import num_scan_threads
from vitctl.data.source import SourceOptions
from vitctl.data.support_pool import (
    SupportPool,
    UsedImages,
    check_used_images,
    leave_out_bad,
    open_support_pool,
    short_classes,
)
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.feature_file import read_features
from vitctl.evaluation.resampling import PigeonholeBootstrap
from vitctl.evaluation.supports import (
    Episodes,
    SupportDraw,
    draw_episodes,
    draw_support,
    eligible_classes,
    rows_used,
)
from vitctl.models.build import LoadedModel
from vitctl.primitives.outputs import check_elsewhere
from vitctl.primitives.processes import ALONE, Processes
from vitctl.settings.words import DEMO

DEFAULT_SEEDS = 10
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class LinearPlan:
    """One support per number of images and seed.

    Attributes:
        shots: Images per class, ascending; None, the last, is all.
        seeds: How many; None is the default. All images are the same images whatever the seed, so one will do.
    """

    shots: tuple[int | None, ...]
    seeds: int | None

    @property
    def num_seeds(self) -> int:
        """Support draws, seeds 0 to this less one."""
        return 1 if self.shots == (None,) else self.seeds or DEFAULT_SEEDS


@dataclass(frozen=True)
class EpisodePlan:
    """N-way K-shot tasks.

    Attributes:
        ways: Numbers of classes.
        shots: Numbers of support images per class, ascending.
        queries: Test images per class.
        episodes: Per seed.
        seeds: How many; None is the default, one.
    """

    ways: tuple[int, ...]
    shots: tuple[int, ...]
    queries: int
    episodes: int
    seeds: int | None

    @property
    def num_seeds(self) -> int:
        """Support draws, seeds 0 to this less one."""
        return self.seeds or 1


Plan = LinearPlan | EpisodePlan


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labels, and which rows of them supports, tests or episodes use.

    Attributes:
        name: Of the data, in results.
        class_names: C names.
        labels: (U,) int64 of the support rows.
        test_labels: (M,) int64.
        draws: One per seed, positions among the U; none for episodes.
        episodes: One group per seed, of the most ways and shots, positions among the U and the M; else none.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    test_labels: np.ndarray
    draws: tuple[SupportDraw, ...] = ()
    episodes: tuple[Episodes, ...] = ()

    @cached_property
    def bootstrap(self) -> PigeonholeBootstrap:
        """For intervals over test images."""
        return PigeonholeBootstrap(len(self.test_labels), seed=BOOTSTRAP_SEED)


@dataclass(frozen=True, kw_only=True)
class FeatureTask(Task):
    """Features that somebody else computed.

    Attributes:
        support: (U, D) real.
        test: (M, D) real.
    """

    support: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """Images to embed.

    Attributes:
        images: Pool and test set, whole.
        used: The images to embed: those of any draw or episode, and of the test set.
    """

    images: SupportPool
    used: UsedImages

    @property
    def num_images(self) -> int:
        """Images of pool and test set."""
        return len(self.images.pool) + len(self.images.test)


def open_feature_task(path: Path, plan: Plan, conversation: Conversation) -> FeatureTask:
    """Return the task of a features file; see ``read_features``.

    Raises:
        SettingError: It has too few classes for the plan.
        DataError: It cannot be read, or holds too few rows.
    """
    arrays = read_features(path, conversation)
    labels, test_labels = arrays["y_train"], arrays["y_test"]
    class_names = tuple(str(label) for label in range(int(labels.max()) + 1))
    draws, episodes = _draw(plan, str(path.absolute()), labels, test_labels, class_names, conversation)
    return FeatureTask(
        name=str(path.absolute()),
        class_names=class_names,
        labels=labels,
        test_labels=test_labels,
        draws=draws,
        episodes=episodes,
        support=arrays["x_train"],
        test=arrays["x_test"],
    )


def open_image_tasks(
    data: Sequence[str],
    tests: Sequence[str | None],
    plan: Plan,
    *,
    options: SourceOptions,
    group_pattern: str | None,
    skip_bad: bool,
    conversation: Conversation,
    written: Mapping[str, Path] | None = None,
    choose_test: Callable[[int], np.ndarray] | None = None,
    processes: Processes = ALONE,
) -> list[ImageTask]:
    """Open every data set, draw supports or episodes from its labels, and look at the images they use.

    Args:
        data: Specs of the pools.
        tests: Specs of their test images; None is a split of the pool's own.
        plan: What is drawn.
        options: How to read the specs.
        group_pattern: Names the group of every image.
        skip_bad: Leave out images that cannot be read, instead of failing.
        conversation: Hears of what is odd about them.
        written: By option, where results go, which must lie elsewhere.
        choose_test: From the number of test images to the positions (M,) int64 of those to use; None uses all.
        processes: Share the images out to look at them.

    Raises:
        SettingError: Data are given twice, lie where results go, or have too few classes for the plan.
        DataError: They cannot be read, or are too few.
    """
    tasks: list[ImageTask] = []
    for spec, test in zip(data, tests, strict=True):
        is_strict = len(data) == 1 and test is None
        with processes.first_here_first():
            images = open_support_pool(spec, test, options=options, group_pattern=group_pattern, is_strict=is_strict)
        for option, path in (written or {}).items():
            check_elsewhere(path, (images.source.spec, images.test_spec), option=option)
        if images.source.spec in {task.name for task in tasks}:
            raise SettingError(f"--data {spec} is given twice; expected different ones.", field="data")
        for note in images.source.sentences(images.pool, images.test):
            conversation.warn(note)
        if skip_bad:
            images, skipped = leave_out_bad(
                images, num_threads=num_scan_threads(), conversation=conversation, processes=processes
            )
            for line in skipped:
                conversation.warn(f"left out: {line}")
        if choose_test is not None:
            images = replace(images, test=images.test.select(choose_test(len(images.test))))
        tasks.append(_image_task(images, plan, conversation, processes))
    return tasks


def _image_task(images: SupportPool, plan: Plan, conversation: Conversation, processes: Processes) -> ImageTask:
    name, class_names, test_labels = images.source.spec, images.pool.class_names, images.test.labels
    if not len(test_labels):
        raise DataError(f"The test set {images.test_spec} holds no images; give others with --test.")
    lacking = len(class_names) - np.count_nonzero(np.bincount(test_labels))
    if lacking:
        conversation.warn(f"{images.test_spec}: {lacking} of the classes have no test image; they are not scored.")
    draws, episodes = _draw(plan, name, images.pool.labels, test_labels, class_names, conversation)
    if episodes:
        rows = np.unique(np.concatenate([one.support.ravel() for one in episodes]))
        test_rows = np.unique(np.concatenate([one.queries.ravel() for one in episodes]))
    else:
        rows, test_rows = rows_used(draws, None), np.arange(len(images.test))
    used = check_used_images(
        images.pool.select(rows),
        images.test.select(test_rows),
        num_threads=num_scan_threads(),
        conversation=conversation,
        processes=processes,
    )
    if used.num_shared:
        conversation.warn(
            f"{used.num_shared} of the {len(used.test):,} test images of {name} are also support images, pixel for "
            "pixel: scores on them are too good to be true."
        )
    return ImageTask(
        name=name,
        class_names=class_names,
        labels=used.support.labels,
        test_labels=used.test.labels,
        draws=tuple(draw.moved(rows) for draw in draws),
        episodes=tuple(one.moved(rows, test_rows) for one in episodes),
        images=images,
        used=used,
    )


def _draw(
    plan: Plan,
    name: str,
    labels: np.ndarray,
    test_labels: np.ndarray,
    class_names: tuple[str, ...],
    conversation: Conversation,
) -> tuple[tuple[SupportDraw, ...], tuple[Episodes, ...]]:
    """Return draws or episodes, one per seed; their positions are those of the whole pool and test set."""
    num_classes = len(class_names)
    if np.count_nonzero(np.bincount(labels, minlength=num_classes)) < 2:
        raise DataError(f"{name} has images of fewer than two classes to draw from; to classify, two are needed.")
    if isinstance(plan, EpisodePlan):
        return (), _draw_episodes(plan, name, labels, test_labels, num_classes, conversation)
    counts = [count for count in plan.shots if count is not None]
    sentences = [short_classes(labels, class_names, count) for count in counts or (1,)]
    for sentence in dict.fromkeys(sentences):
        if sentence is not None:
            conversation.warn(f"{name}: {sentence}")
    most = None if None in plan.shots else max(counts)
    seeds = range(plan.num_seeds)
    return tuple(draw_support(labels, num_classes=num_classes, seed=seed, most=most) for seed in seeds), ()


def _draw_episodes(
    plan: EpisodePlan,
    name: str,
    labels: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    conversation: Conversation,
) -> tuple[Episodes, ...]:
    ways, shots, queries = max(plan.ways), max(plan.shots), plan.queries
    eligible = eligible_classes(labels, test_labels, num_classes=num_classes, shots=shots, queries=queries)
    needed = f"{shots} images to draw from and {queries} test images"
    if ways > num_classes:
        raise SettingError(
            f"--ways is {ways}, but {name} has {num_classes} classes; expected at most that many.", field="ways"
        )
    if ways > len(eligible):
        raise DataError(
            f"{len(eligible)} of the {num_classes} classes of {name} have {needed}; --ways {ways} needs that many. Try "
            "fewer --shots, --queries or --ways."
        )
    if len(eligible) < num_classes:
        conversation.warn(
            f"{name}: episodes are drawn from {len(eligible)} of {num_classes} classes, those with {needed}."
        )
    return tuple(
        draw_episodes(
            labels,
            test_labels,
            eligible,
            ways=ways,
            shots=shots,
            queries=queries,
            num_episodes=plan.episodes,
            seed=seed,
        )
        for seed in range(plan.num_seeds)
    )


# --- in words ----------------------------------------------------------------------------------------------


def task_settings(task: Task, *, reason: str) -> list[Setting]:
    """Return the lines of a header about the data; ``reason`` says why these."""
    settings = [Setting("data", task.name, reason)]
    if isinstance(task, ImageTask):
        pool, used = task.images, task.used
        num_pool = len(pool.pool)
        saved = f"the rest of {num_pool:,} need not be embedded" if len(used.support) < num_pool else "all"
        settings.append(Setting("support", f"{len(used.support):,} images in any draw", saved))
        settings.append(Setting("test", f"{len(used.test):,} images", f"{pool.test_reason} ({pool.test_spec})"))
        settings += left_out_settings(pool.left_out)
    return [*settings, Setting("classes", str(len(task.class_names)))]


def plan_settings(plan: Plan) -> list[Setting]:
    """Return the lines of a header about what is drawn."""
    shots = ", ".join("all" if count is None else str(count) for count in plan.shots)
    seeds = f"{plan.num_seeds}: 0 to {plan.num_seeds - 1}" if plan.num_seeds > 1 else "1: 0"
    if isinstance(plan, LinearPlan):
        is_one = plan.num_seeds < (plan.seeds or 1)
        note = [Setting("", "", "all images are the same whatever the seed: one draw")] if is_one else []
        return [*note, Setting("shots, seeds", f"{shots}; {seeds}", "drawn as big_vision draws them")]
    return [
        Setting("episodes", f"{plan.episodes} for every way and shot", f"{plan.queries} queries a class"),
        Setting("ways; shots", f"{', '.join(map(str, plan.ways))}; {shots}"),
        Setting("seeds", seeds),
    ]


def known_classes(loaded: LoadedModel, task: Task) -> str | None:
    """Return a sentence where the model's own classes carry names of the task's, else None: it is no few-shot then."""
    if loaded.name == DEMO:
        if "fashion-mnist" in task.name.lower() or "fashion_mnist" in task.name.lower():
            return "the demo model was pretrained on Fashion-MNIST's training images: no new classes."
        return None
    names = {*(loaded.class_names or ()), *loaded.class_descriptions.values()}
    known = {_plain(part) for name in names for part in name.split(",")}
    are_equal = loaded.class_names == task.class_names  # else numbers say nothing: they may stand for anything
    both = [name for name in task.class_names if are_equal or (_plain(name) in known and not name.isdigit())]
    if not both:
        return None
    return (
        f"{len(both)} of the {len(task.class_names)} classes of {task.name} carry names that {loaded.name} was "
        f"trained on ({', '.join(both[:3])}{', ...' if len(both) > 3 else ''}): these are no new classes to it."
    )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
