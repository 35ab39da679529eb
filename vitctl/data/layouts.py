"""How a tree of folders is meant: as classes, or as splits that hold classes; below which folder.

The tree may be on disk or in an archive. A place in it is a relative path with slashes, ``train/cat``; ``""`` is the
tree itself. What is hidden, or litter of systems and programs, is in no tree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from vitctl.data.columns import split_named
from vitctl.data.endings import any_image
from vitctl.data.source import Images, composed_name
from vitctl.errors import DataError

MOST_WRAPPERS = 16  # guess; a link to the folder it lies in is one without end
SPLIT_ORDER = ("train", "val", "test")
_IN_WORDS = {"train": "training", "val": "validation", "test": "test"}


class Tree(Protocol):
    """Folders and files. Every method may raise DataError for what cannot be read."""

    def folders(self, place: str) -> list[str]:
        """Return the names of the folders directly in a folder, in natural order."""

    def files(self, place: str) -> Iterable[str]:
        """Return the names of the files directly in a folder."""

    def walk(self, place: str) -> Iterable[str]:
        """Return the paths, from ``place`` on, of the files in and below it; links are followed."""

    def where(self, place: str) -> str:
        """Return what a sentence calls a place."""

    def images(self, places: Sequence[str]) -> Images:
        """Return files as images."""


@dataclass(frozen=True)
class Layout:
    """How a tree is meant.

    Attributes:
        splits: Place of each split by name; a tree without splits has the single split ``all``.
        notes: Sentences the user should see.
    """

    splits: dict[str, str]
    notes: tuple[str, ...] = ()


def joined(*parts: str) -> str:
    """Return a place from its parts; empty ones say nothing."""
    return "/".join(part for part in parts if part)


def find_layout(tree: Tree, *, class_depth: int | None = None) -> Layout:
    """Return how ``tree`` is meant, from the names of its upper folders.

    Folders named as splits are (``train``, ``Training``, ``valid``, ...; ``columns.split_named``) are splits where they
    hold folders, of which some have the same names; with ``train`` among them and nothing else beside, whatever they
    hold; and where ``train`` alone of all folders holds folders. Where one of them holds folders and another folder
    beside it is named otherwise, nobody can tell.

    Args:
        tree: The tree.
        class_depth: As given; then folders that could be either are classes. 1 goes further: so are splits beside a
            folder with sub-folders of the same names.

    Raises:
        DataError: They could be either, or two are the same split.
    """
    top, notes = _without_wrappers(tree, class_depth or 1)
    named = {name: split for name in tree.folders(top) if (split := split_named(name)) is not None}
    others = [name for name in tree.folders(top) if name not in named]
    if not _are_splits(tree, top, named, others, class_depth=class_depth):
        return Layout({"all": top}, notes)
    _check_one_of_each(named, tree.where(top))
    if others:
        verb = "is" if len(others) == 1 else "are"
        notes += (f"{in_words(others)} beside the splits of {tree.where(top)} {verb} not read.",)
    places = {split: joined(top, name) for name, split in named.items()}
    return Layout({split: places[split] for split in SPLIT_ORDER if split in places}, notes)


def _without_wrappers(tree: Tree, depth: int) -> tuple[str, tuple[str, ...]]:
    """Return the place below all folders that alone hold images, as archives unpack to; and a note."""
    top, beside = "", list[str]()
    for _ in range(MOST_WRAPPERS):
        folders = [] if any_image(tree.files(top)) else tree.folders(top)
        name = _name_of_wrapper(tree, top, folders)
        if name is None or not _has_level(tree, joined(top, name), depth):
            break
        beside += [other for other in folders if other != name]
        top = joined(top, name)
    if not top:
        return top, ()
    if beside:
        hold = "holds" if len(beside) == 1 else "hold"
        return top, (
            f"The images of {tree.where('')} lie in {top}/, whose folders are read; {in_words(beside)} {hold} none.",
        )
    return top, (f"{tree.where('')} holds nothing but {top}/, whose folders are read.",)


def _name_of_wrapper(tree: Tree, place: str, folders: Sequence[str]) -> str | None:
    """Return which of the folders there is one around all others: no split, with folders and no image directly in it.

    Beside it are at most folders of other files (``annotations/``); an empty one may be a class yet to be filled.
    """
    inside = {name: joined(place, name) for name in folders}
    if any(map(split_named, folders)) or any(any_image(tree.files(inner)) for inner in inside.values()):
        return None
    with_images = (name for name, inner in inside.items() if len(folders) == 1 or any_image(tree.walk(inner)))
    holding = list(islice(with_images, 2))  # of many folders the others need no look
    if len(holding) != 1 or not tree.folders(inside[holding[0]]):
        return None
    are_filled = all(any(True for _ in tree.walk(inner)) for inner in inside.values())
    return holding[0] if are_filled or len(folders) == 1 else None


def _has_level(tree: Tree, place: str, depth: int) -> bool:
    """Return whether a file lies in a folder ``depth`` levels below ``place``."""
    return depth == 1 or any(path.count("/") >= depth for path in tree.walk(place))


def innermost(tree: Tree, place: str) -> str:
    """Return the place of a split, which in some archives is a folder of the same name in it: ``test_set/test_set``.

    Look when the split is read, and not before: training never looks into ``test``.
    """
    folders = tree.folders(place)
    if len(folders) == 1 and split_named(folders[0]) == split_named(place.rpartition("/")[2]):
        return joined(place, folders[0])
    return place


def _are_splits(tree: Tree, top: str, named: dict[str, str], others: list[str], *, class_depth: int | None) -> bool:
    """Return whether the folders in ``named`` are splits: all but ``others``."""
    if not others and "train" in named.values():
        return True
    classes = {name: _class_names(tree, joined(top, name)) for name in named}
    divided = [name for name, found in classes.items() if found]
    if not others or not divided:
        return bool(divided)
    rivals = [name for name in others if any_image(tree.walk(joined(top, name)))]
    if not rivals:
        return True
    like = {name: _class_names(tree, joined(top, name)) for name in rivals}
    if any(classes[one] & classes[other] for one in divided for other in divided if named[one] != named[other]):
        return class_depth != 1 or not any(like[name] & classes[one] for name in rivals for one in divided)
    if len(named) > 1 and [named[name] for name in divided] == ["train"] and not any(like.values()):
        return class_depth != 1  # the images of test/ lie in no class, nor do those of unlabeled/
    if class_depth is not None:
        return False
    raise DataError(
        f"{tree.where(top)} holds {in_words(divided)}, named as {'a split' if len(divided) == 1 else 'splits'}, and "
        f"{in_words(rivals)}, which {'is' if len(rivals) == 1 else 'are'} not; expected splits only, or classes only. "
        "Rename or move one of them, or give --class-depth 1 if each of them is a class."
    )


def _class_names(tree: Tree, place: str) -> set[str]:
    return {composed_name(name).casefold() for name in tree.folders(innermost(tree, place))}


def _check_one_of_each(named: dict[str, str], where: str) -> None:
    for split in SPLIT_ORDER:
        same = [name for name, other in named.items() if other == split]
        if len(same) > 1:
            raise DataError(
                f"{where} holds {' and '.join(same)}; expected one {_IN_WORDS[split]} folder. Keep one of them."
            )


def in_words(names: Sequence[str], most: int = 5) -> str:
    """Return names of folders as words in a sentence: ``a/, b/ and c/``."""
    shown = [f"{name}/" for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)
