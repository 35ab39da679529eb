"""Names of classes: those that look like a mistake, those of which a split has no image."""

import re
from collections import Counter
from collections.abc import Sequence

from vitctl.data.source import Split

_BETWEEN_NAMES = re.compile("[;|]")


def doubtful_names(split: Split) -> list[str]:
    """Return a sentence for each way in which the class names of ``split`` look wrong; nothing where they do not."""
    return [*_near_names(split), *_several_labels(split)]


def classes_without_images(split: Split, class_names: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``class_names``, in order, of which ``split`` has no image."""
    present = {split.class_names[label] for label in set(split.labels.tolist())}
    return tuple(name for name in class_names if name not in present)


def _near_names(split: Split) -> list[str]:
    """Return a sentence where names of classes differ by spaces or letter case only."""
    by_form: dict[str, list[str]] = {}
    for name in split.class_names:
        by_form.setdefault(" ".join(name.casefold().split()), []).append(name)
    near = [names for names in by_form.values() if len(names) > 1]
    if not near:
        return []
    shown = " and ".join(repr(name) for name in near[0][:3])
    return [
        f"{sum(map(len, near))} classes differ from another by spaces or letter case only, {shown} first; one class?"
    ]


def _several_labels(split: Split) -> list[str]:
    """Return a sentence where labels hold ``;`` or ``|`` between names that other labels have too, or alone."""
    parts = {name: _BETWEEN_NAMES.split(name) for name in split.class_names}
    used = Counter(part.strip() for each in parts.values() for part in set(each))
    used[""] = 0  # 'a;' is no more than one name
    several = [name for name, each in parts.items() if len(each) > 1 and any(used[part.strip()] > 1 for part in each)]
    if not several:
        return []
    counts = dict(zip(split.class_names, split.counts().tolist(), strict=True))
    return [
        f"{sum(counts[name] for name in several):,} of {len(split):,} labels look like several: ';' or '|' between "
        f"names that occur elsewhere too, {several[0]!r} first. Each combination is a class of its own here; vitctl "
        "needs exactly one class per image."
    ]
