"""Images of the sets that are pictures: digits, clothes, icons across themes, sprites of a game by race."""

import gzip
import io
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sets_packages import archive_of, files_in

FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = "top trouser pullover dress coat sandal shirt sneaker bag boot".split()
NUM_FASHION_TEST = 2000
ICON_SIZE = 64  # px; larger ones are shrunk to it


class Picture(NamedTuple):
    """An image of a set: its split, its class, the name of its file, and itself."""

    split: str
    label: str
    name: str
    image: Image.Image


def digits(_: Path) -> Iterator[Picture]:
    """Yield scikit-learn's digits, 8x8 px: the first 1,297 to train on, the last 500 to test."""
    from sklearn.datasets import load_digits  # here, not above: it takes seconds, and other sets do without

    images, labels = load_digits(return_X_y=True)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = np.round(image.reshape(8, 8) * 255 / 16).astype(np.uint8)
        yield Picture("train" if place < len(labels) - 500 else "test", str(label), str(place), Image.fromarray(pixels))


def fashion(num_of_a_class: int, folder: Path = FASHION) -> Iterator[Picture]:
    """Yield so many training images of each class of Fashion-MNIST, and 2,000 of its test images, 200 of each.

    Which ones a seeded shuffle says; fewer are the first of more.
    """
    for split, stem, count in (("train", "train", num_of_a_class), ("test", "t10k", NUM_FASHION_TEST // 10)):
        images = _idx(folder / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = _idx(folder / f"{stem}-labels-idx1-ubyte.gz", 8)
        order = np.argsort([sha256(f"{split} {place}".encode()).digest() for place in range(len(labels))])
        for label, name in enumerate(FASHION_CLASSES):
            for place in order[labels[order] == label][:count]:
                yield Picture(split, name, str(place), Image.fromarray(images[place]))


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


ICON_THEMES = {
    "train": ("gnome", "mate", "tango", "lxde", "elementary-xfce"),
    "test": ("oxygen", "faenza", "paper"),
}
"""The second and third go back to the first, so they are on one side."""

ICONS = {
    "arrow-down": "go-down go-bottom",
    "arrow-left": "go-previous go-first",
    "arrow-right": "go-next go-last",
    "arrow-up": "go-up go-top",
    "battery": "battery battery-full battery-low battery-caution battery-good battery-empty",
    "camera": "camera-photo camera-web camera",
    "clock": "preferences-system-time clock appointment-new appointment-soon",
    "computer": "computer computer-laptop video-display",
    "disc": "media-optical media-optical-audio media-optical-dvd drive-optical",
    "drive": "drive-harddisk drive-harddisk-usb drive-removable-media",
    "folder": "folder folder-open folder-new folder-remote folder-documents folder-music folder-pictures",
    "help": "help-browser help-contents help-faq dialog-question system-help",
    "house": "go-home user-home",
    "keyboard": "input-keyboard preferences-desktop-keyboard keyboard",
    "lock": "system-lock-screen changes-prevent emblem-readonly dialog-password",
    "mail": "mail-unread mail-read mail-message-new mail-send mail-forward internet-mail",
    "printer": "printer document-print printer-network document-print-preview printer-error",
    "search": "edit-find system-search zoom-in zoom-out zoom-original edit-find-replace",
    "speaker": "audio-volume-high audio-volume-medium audio-volume-low audio-volume-muted audio-speakers",
    "star": "emblem-favorite bookmark-new starred",
    "trash": "user-trash user-trash-full",
}
"""Class: names of the icon naming specification of freedesktop.org, and of what preceded it."""
LABEL_OF = {name: label for label, names in ICONS.items() for name in names.split()}


def icons(packages: Path) -> Iterator[Picture]:
    """Yield icons of several themes, on white: two or three drawings of each name, of 32 px and up."""
    for split, themes in ICON_THEMES.items():
        for theme in themes:
            drawn: dict[str, dict[int, Image.Image]] = {}
            for path, data in files_in(archive_of(f"{theme}-icon-theme", packages), _is_icon):
                image = Image.open(io.BytesIO(data))
                if min(image.size) >= 32:
                    drawn.setdefault(Path(path).stem, {})[image.width] = on_white(image)
            for name, by_size in sorted(drawn.items()):
                for size in sorted({min(by_size), max(by_size), *({48} & by_size.keys())}):
                    yield Picture(split, LABEL_OF[name], f"{theme}-{name}-{size}", by_size[size])


def _is_icon(path: str) -> bool:
    return path.endswith(".png") and Path(path).stem in LABEL_OF and "@2" not in path and "symbolic" not in path


def on_white(image: Image.Image) -> Image.Image:
    """Return the picture on a white ground, shrunk to 64 px where it is larger."""
    rgba = image.convert("RGBA")
    if max(rgba.size) > ICON_SIZE:
        rgba.thumbnail((ICON_SIZE, ICON_SIZE), Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(ground, rgba).convert("RGB")


RACES = {
    "drakes": "drake", "dunefolk": "dunefolk", "dwarves": "dwarf", "elves-wood": "elf", "goblins": "goblin",
    "human-loyalists": "loyalist", "human-magi": "mage", "human-outlaws": "outlaw", "merfolk": "merfolk",
    "nagas": "naga", "orcs": "orc", "saurians": "saurian", "trolls": "troll", "undead-necromancers": "necromancer",
    "undead-skeletal": "skeleton",
}  # fmt: skip
"""Folder of the game's units: class."""
NUM_FRAMES = {"train": 12, "test": 8}  # of a unit, at most, evenly over its animations


def sprites(packages: Path) -> Iterator[Picture]:
    """Yield figures of Battle for Wesnoth, shrunk to 64 px: class is the race; units to test are none to train on.

    A third of each race's units, by the hash of their names, is to test. Frames of one unit are alike, so an interval
    over images alone is too narrow here.
    """
    found: dict[tuple[str, str], list[tuple[str, Image.Image]]] = {}
    for path, data in files_in(archive_of("wesnoth-1.16-data", packages), lambda path: "core/images/units/" in path):
        race, _, rest = path.partition("core/images/units/")[2].partition("/")
        image = Image.open(io.BytesIO(data)) if race in RACES and path.endswith(".png") else None
        if image is not None and image.size == (72, 72) and _is_figure(image):
            unit = re.match(r"[a-z]*", Path(path).stem)
            found.setdefault((race, unit[0] if unit else ""), []).append((rest, image))
    for race, label in RACES.items():
        units = sorted((unit for of, unit in found if of == race), key=lambda unit: sha256(unit.encode()).digest())
        for place, unit in enumerate(units):
            split = "test" if place % 3 == 0 else "train"
            frames = found[race, unit]
            kept = sorted({round(k) for k in np.linspace(0, len(frames) - 1, NUM_FRAMES[split])})
            for rest, image in (frames[k] for k in kept):
                yield Picture(split, label, re.sub(r"[^a-z0-9]+", "-", rest[:-4].lower()), on_white(image))


def _is_figure(image: Image.Image) -> bool:
    """Return whether a tenth of the picture is drawn on; others are arrows and haloes."""
    return float(np.mean(np.asarray(image.convert("RGBA"))[..., 3] > 128)) > 0.1
