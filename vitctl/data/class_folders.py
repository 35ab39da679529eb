"""Folders whose names are classes, on disk or in an archive, as a source of splits."""

from dataclasses import dataclass, replace
from functools import partial

from vitctl.data.columns import split_named
from vitctl.data.endings import image_endings, left_out_sentence, part_images
from vitctl.data.layouts import Tree, find_layout, in_words, innermost, joined
from vitctl.data.source import LazySplits, Source, SourceOptions, Split, composed_name, split_from_names
from vitctl.errors import DataError
from vitctl.primitives.natural_order import natural_key


def source_of_tree(tree: Tree, options: SourceOptions, *, spec: str, kind: str) -> Source:
    """Return the splits of a tree: train, val, test as they are there, or ``all``.

    Args:
        tree: The folders.
        options: Of which the depth of classes counts.
        spec: What it was read from.
        kind: What it is: "a folder".

    Raises:
        DataError: Nobody can tell splits from classes. A split that holds no image raises it when it is asked for.
    """
    layout = find_layout(tree, class_depth=options.class_depth)
    readers = {
        name: partial(_read_split, tree, place, name, options.class_depth or 1) for name, place in layout.splits.items()
    }
    if "all" in layout.splits:
        description = f"{kind} of class folders"
    else:
        description = f"{kind} with {', '.join(place.rpartition('/')[2] + '/' for place in layout.splits.values())}"
    if options.class_depth is not None:
        description += f", classes at level {options.class_depth}"
    return Source(spec, description, LazySplits(readers), notes=layout.notes, options=options)


@dataclass(frozen=True)
class _Listing:
    """What lies in a folder of class folders; paths start there.

    Attributes:
        by_class: Images by class folder, in natural order; empty ones too.
        outside: Images above the level of class folders.
        left_out: Files of other kinds, by ending.
    """

    by_class: dict[str, list[str]]
    outside: list[str]
    left_out: dict[str, int]


def _read_split(tree: Tree, place: str, name: str, depth: int) -> Split:
    if name != "all":
        place = innermost(tree, place)
    found = _list_images(tree, place, depth)
    paths = [joined(place, path) for listed in found.by_class.values() for path in listed]
    if not paths:
        raise DataError(_why_no_images(tree, place, found, depth))
    labels = [folder.rpartition("/")[2] for folder, listed in found.by_class.items() for _ in listed]
    split = split_from_names(name, tree.images(paths), labels)
    empty = [folder for folder, listed in found.by_class.items() if not listed]
    known = set(labels)  # with a class of this name elsewhere, an empty folder is no class without images
    return replace(
        split,
        empty_classes=tuple(dict.fromkeys(one for folder in empty if (one := folder.rpartition("/")[2]) not in known)),
        left_out=found.left_out,
        notes=(*split.notes, *_on_depth(tree, place, found, depth), *_on_merged(found)),
    )


def _list_images(tree: Tree, place: str, depth: int) -> _Listing:
    images, left_out = part_images(tree.walk(place))
    by_class: dict[str, list[str]] = {folder: [] for folder in _folders_at(tree, place, depth)}
    outside: list[str] = []
    for path in images:
        parts = path.split("/")
        if len(parts) > depth:
            by_class.setdefault("/".join(parts[:depth]), []).append(path)
        else:
            outside.append(path)
    return _Listing(
        {folder: sorted(listed, key=natural_key) for folder, listed in by_class.items()},
        sorted(outside, key=natural_key),
        left_out,
    )


def _folders_at(tree: Tree, place: str, depth: int) -> list[str]:
    """Return the folders ``depth`` levels below ``place``, from there on, in natural order."""
    found = [""]
    for _ in range(depth):
        found = [joined(folder, name) for folder in found for name in tree.folders(joined(place, folder))]
    return found


def _on_depth(tree: Tree, place: str, found: _Listing, depth: int) -> list[str]:
    """Return what should be said of images above the class folders, and of class folders with folders only."""
    notes = []
    if found.outside:
        number = "1 image of" if len(found.outside) == 1 else f"{len(found.outside):,} images of"
        lies = "lies" if len(found.outside) == 1 else "lie"
        notes.append(
            f"{number} {tree.where(place)} {lies} outside the class folders, {found.outside[0]} first, and "
            f"{'is' if len(found.outside) == 1 else 'are'} not read."
        )
    paths = [path for listed in found.by_class.values() for path in listed]
    if depth == 1 and all(path.count("/") > 1 for path in paths):
        below = list(dict.fromkeys(path.split("/")[1] for path in paths))
        lies = f"No image of {tree.where(place)} lies directly in a class folder; {paths[0]} counts as "
        lies += f"{paths[0].split('/')[0]!r}."
        if all(map(split_named, below)):
            notes.append(f"{lies} {_look_like_splits(tree, place, paths[0], below)}")
        elif len(below) > 1:  # where it is one it has the name of no class: ``cat/images/1.jpg``
            notes.append(
                f"{lies} --class-depth 2 takes the {len(below):,} folders below as classes, {below[0]!r} first."
            )
    classes = list(dict.fromkeys(path.split("/")[depth - 1] for path in paths))
    if depth > 1 and all(map(split_named, classes)):
        notes.append(_look_like_splits(tree, place, paths[0], classes))
    return notes


def _on_merged(found: _Listing) -> list[str]:
    """Return a sentence where class folders of one name lie in several places."""
    places: dict[str, list[str]] = {}
    for folder, listed in found.by_class.items():
        if listed:
            places.setdefault(composed_name(folder.rpartition("/")[2]), []).append(folder)
    merged = [folders for folders in places.values() if len({folder.rpartition("/")[0] for folder in folders}) > 1]
    if not merged:
        return []
    first, second = merged[0][:2]
    number = "1 class lies" if len(merged) == 1 else f"{len(merged):,} classes lie"
    each = "its" if len(merged) == 1 else "their"
    return [f"{number} in several folders, {first} and {second} first; {each} images count together."]


def _look_like_splits(tree: Tree, place: str, path: str, names: list[str]) -> str:
    """Return a sentence for folders named as splits where classes are looked for; ``path`` is the first image's."""
    parts = path.split("/")
    level = parts.index(names[0])
    one, classes = ("looks like a split", "a class") if len(names) == 1 else ("look like splits", "classes")
    if len(parts) > level + 2:
        advice = f"give {tree.where(joined(place, *parts[:level]))} as --data"
    else:
        advice = f"expected {names[0]}/{parts[level - 1]}/, not {parts[level - 1]}/{names[0]}/"
    return f"{in_words(names)} {one}, not like {classes}: {advice}."


def _why_no_images(tree: Tree, place: str, found: _Listing, depth: int) -> str:
    where, unread = tree.where(place), left_out_sentence(found.left_out)
    more = f" {unread}" * bool(unread)
    if found.outside and depth > 1:
        return (
            f"{where} has no image {depth} folders deep, the first is {found.outside[0]}; expected one folder per "
            f"class at level {depth}. Give another --class-depth.{more}"
        )
    if found.outside:
        return (
            f"{where} holds {len(found.outside)} image(s) but no class folders; expected one folder per class. Move "
            f"the images of each class into a folder named after it.{more}"
        )
    if found.by_class:
        return (
            f"{where} has {len(found.by_class)} sub-folder(s) but no image in them; expected image files "
            f"({' '.join(image_endings())}) in one folder per class.{more}"
        )
    archives = [name for name in tree.files(place) if name.lower().endswith((".zip", ".tar"))]
    if archives:
        return f"{where} holds {archives[0]} and no image; expected one folder of images per class. Give the archive."
    return f"{where} {'holds no image' if unread else 'is empty'}; expected one folder of images per class.{more}"
