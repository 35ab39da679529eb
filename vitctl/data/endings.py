"""Which files are images, told by the endings of their names: those that are read, and those that are left out.

The ending says only whether a file of a folder or an archive is meant; what it holds decides how it is opened
(``vitctl.data.images``). Of no kind are notes, tables and the like: they are passed over.
"""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import features

from vitctl.conversation import Setting

# what Pillow opens without a further program
EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
HEIF_EXTENSIONS = (".heic", ".heif", ".hif")
HEIC_ADVICE = "pip install 'vitctl[heic]' reads"
# images and videos of other kinds. Pillow could open some of them: TGA has no mark to know it by, so that it takes
# nearly any file for one; PSD, SVG and EPS are drawings, of which it opens a preview, nothing, or a further program
_OTHER_KINDS = (
    ".3fr", ".ai", ".ari", ".arw", ".avi", ".blp", ".bpg", ".cdr", ".cr2", ".cr3", ".crw", ".cur", ".dcm", ".dcx",
    ".dds", ".dib", ".dicom", ".djvu", ".dng", ".emf", ".eps", ".erf", ".exr", ".fit", ".fits", ".flv", ".gifv",
    ".hdr", ".icns", ".ico", ".iiq", ".jls", ".jxl", ".jxr", ".kdc", ".m4v", ".mef", ".mha", ".mkv", ".mos", ".mov",
    ".mp4", ".mpeg", ".mpg", ".mpo", ".mrw", ".mts", ".ndpi", ".nef", ".nii", ".nrrd", ".nrw", ".orf", ".pcx", ".pef",
    ".pfm", ".psb", ".psd", ".qoi", ".raf", ".ras", ".raw", ".rw2", ".rwl", ".sgi", ".sr2", ".srf", ".srw", ".svg",
    ".svgz", ".svs", ".tga", ".wdp", ".webm", ".wmf", ".wmv", ".x3f", ".xbm", ".xcf", ".xpm",
)  # fmt: skip

LITTER = ("__MACOSX", "__pycache__", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information")


def has_heif() -> bool:
    """Return whether the extra ``vitctl[heic]`` is installed; imports nothing."""
    return importlib.util.find_spec("pillow_heif") is not None


def has_avif() -> bool:
    """Return whether this Pillow reads AVIF; wheels do from 11.3 on."""
    return "avif" in features.modules and bool(features.check("avif"))


def image_endings() -> tuple[str, ...]:
    """Return the endings of the images that are read here, in small letters, sorted."""
    here = [ending for ending in EXTENSIONS if ending != ".avif" or has_avif()]
    return tuple(sorted([*here, *(HEIF_EXTENSIONS if has_heif() else ())]))


def ending_of(name: str) -> str:
    """Return the ending of a file's name, in small letters."""
    return os.path.splitext(name)[1].lower()


def is_hidden_name(name: str) -> bool:
    """Return whether a file or folder is hidden or litter by its name (``._1.jpg``, ``__MACOSX``, ``@eaDir``)."""
    return name.startswith(".") or name in LITTER


def is_hidden(path: Path, *, below: Path) -> bool:
    """Return whether a part of ``path`` below ``below`` is hidden or litter."""
    return any(is_hidden_name(part) for part in path.relative_to(below).parts)


def part_images(names: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """Return those of ``names`` that are images to read, and how many of each other kind of image there are.

    Args:
        names: Of files, with or without folders; none is hidden.
    """
    read = frozenset(image_endings())
    others = frozenset((*EXTENSIONS, *HEIF_EXTENSIONS, *_OTHER_KINDS)) - read
    images: list[str] = []
    left_out: Counter[str] = Counter()
    for name in names:
        ending = ending_of(name)
        if ending in read:
            images.append(name)
        elif ending in others:
            left_out[ending] += 1
    return images, most_first(left_out)


def any_image(names: Iterable[str]) -> bool:
    """Return whether one of ``names`` is an image; looks no further than the first.

    HEIF and AVIF count wherever we are, so that how folders are meant does not depend on what is installed.
    """
    endings = frozenset((*EXTENSIONS, *HEIF_EXTENSIONS))
    return any(ending_of(name) in endings for name in names)


def most_first(left_out: Mapping[str, int]) -> dict[str, int]:
    """Return counts by kind, the most frequent first."""
    return dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0])))


def together(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of several counts by kind."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return most_first(total)


def counted(left_out: Mapping[str, int], *, last: str = ", ") -> str:
    """Return e.g. ``12 .heic, 4 .svg, 3 .nef``, with ``last`` before the last kind."""
    parts = [f"{number:,} {ending}" for ending, number in left_out.items()]
    return last.join([*([", ".join(parts[:-1])] if parts[1:] else []), *parts[-1:]])


def way_to_read(left_out: Mapping[str, int]) -> str:
    """Return what would read some of what is left out, as the end of a sentence; "" where nothing would."""
    ways = []
    heic = [ending for ending in left_out if ending in HEIF_EXTENSIONS]
    if heic:
        what = " ".join(heic) if len(heic) < len(left_out) else "it" if sum(left_out.values()) == 1 else "them"
        ways.append(f"{HEIC_ADVICE} {what}")
    if ".avif" in left_out:
        ways.append("a newer Pillow reads .avif: pip install -U pillow")
    return "; ".join(ways)


def left_out_settings(left_out: Mapping[str, int]) -> list[Setting]:
    """Return the line of a header about what is left out; none where nothing is."""
    way = way_to_read(left_out)
    return [Setting("left out", counted(left_out), f"not read{f'; {way}' * bool(way)}")] if left_out else []


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """Return e.g. ``12 .heic files are not read; pip install 'vitctl[heic]' reads them.``, "" where nothing is."""
    if not left_out:
        return ""
    verb = "file is" if sum(left_out.values()) == 1 else "files are"
    way = way_to_read(left_out)
    return f"{counted(left_out, last=' and ')} {verb} not read{f'; {way}' * bool(way)}."
