"""``vitctl data``: what images there are, and what is wrong with them, before an hour is lost."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.class_names import classes_without_images, doubtful_names
from vitctl.data.copies import leaks
from vitctl.data.depth import decide_max_value, depth_of, doubts_about_range
from vitctl.data.division import hold_out
from vitctl.data.endings import left_out_sentence, together
from vitctl.data.groups import with_pattern_groups
from vitctl.data.scan import Scan, exact_duplicates, num_scan_threads, scan_images
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Source, SourceOptions, Split, align_classes
from vitctl.data.sources import open_source
from vitctl.data.survey import (
    describe_duplicates,
    describe_images,
    describe_imbalance,
    describe_near_copies,
    describe_split,
    fingerprint,
    sample_of_each_class,
    strange_shapes,
    thumbnail,
)
from vitctl.errors import DataError
from vitctl.models.choices import decide_image_size
from vitctl.primitives.files import user_path, write_json
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.results.data import BadImage, DataReport, SuggestedSize, ValidationReport
from vitctl.settings.data import DataConfig

SHEET_CLASSES, SHEET_EACH, THUMBNAIL_PX = 24, 8, 96
SPLIT_ORDER = ("all", "train", "val", "test")
USUAL_SIZE, USUAL_PATCH = (224, 224), (16, 16)  # of most pretrained ViTs; the suggestion is for one of those

Scanned = dict[str, tuple[Split, Scan]]


def run(config: DataConfig, conversation: Conversation) -> DataReport:
    """Look at every image, write report and contact sheet, and return the report.

    Raises:
        VitctlError: The data cannot be opened, or no image decodes; nothing was written.
    """
    source = open_source(str(config.data), SourceOptions.of(config))
    out = _decide_out(config, source)
    check_writable(out)
    with ScanMemory(conversation) as memory:
        scanned, closed = _scan(source, config, memory, conversation)
        hashes = _hashes(scanned, memory, conversation)
    main = _main(scanned)
    split, scan = scanned[main]
    depth, own_range = depth_of([seen for _, seen in scanned.values()]), depth_of([scan])
    max_value = decide_max_value(config.max_value, own_range).value
    doubts = doubts_about_range(depth, max_value, is_given=config.max_value is not None)
    kept_in, validation = _held_out(scanned, hashes, config) if main in ("train", "all") else (None, None)
    size = decide_image_size(scan.sizes[scan.good], USUAL_SIZE, USUAL_PATCH, is_demo=False)
    left_out = together(*(one.left_out for one, _ in scanned.values()))
    unread = [left_out_sentence(left_out)] if left_out else []
    report = DataReport(
        data=source.spec,
        description=source.description,
        num_classes=len(split.class_names),
        class_names=tuple(split.class_names),
        splits={name: describe_split(*pair) for name, pair in scanned.items()},
        validation=validation,
        images=describe_images([scan for _, scan in scanned.values()]),
        suggested_image_size=SuggestedSize(size.value, size.reason),
        left_out=left_out,
        bad=tuple(
            BadImage(one.image_name(position), name, reason)
            for name, (one, seen) in scanned.items()
            for position, reason in seen.bad.items()
        ),
        duplicates=describe_duplicates(scanned, hashes, kept_in),
        near_copies=describe_near_copies(scanned, hashes, kept_in),
        imbalance=describe_imbalance(split),
        aspect_ratios=strange_shapes(scanned),
        warnings=(
            *source.sentences(*(one for one, _ in scanned.values())),
            *unread,
            *closed,
            *_warnings(scanned, hashes, main),
            *doubts,
        ),
        fingerprint=fingerprint(scanned),
        out=str(out),
    )
    _write(out, report, main, split, scan, max_value)
    return report


def _decide_out(config: DataConfig, source: Source) -> Path:
    if config.out is None:
        name = Path(str(config.data).removeprefix("hub:").rstrip("/")).name
        out = Path(f"data-{Path(name).stem.replace('*', '').strip('-_.') or 'report'}").absolute()
    else:
        out = user_path(config.out).absolute()
    check_elsewhere(out, [source.spec])
    return out


def _scan(
    source: Source, config: DataConfig, memory: ScanMemory, conversation: Conversation
) -> tuple[Scanned, list[str]]:
    """Return every split and what its images show; and a sentence for each split but the main one that has none."""
    scanned: Scanned = {}
    closed = []
    for name in sorted(source.splits, key=lambda name: (*SPLIT_ORDER, name).index(name)):
        try:
            split = with_pattern_groups(source.split(name), config.group_pattern)
        except DataError as error:
            if name == _main(source.splits):
                raise
            closed.append(f"Split {name} is left out: {error}")
            continue
        scan = scan_images(split, num_threads=num_scan_threads(), conversation=conversation, memory=memory)
        scanned[name] = (split, scan)
    split, scan = scanned[_main(scanned)]
    if not len(scan.good):
        hint = " --image-root moves where a table's paths start." if scan.bad[0] == "no such file" else ""
        raise DataError(
            f"None of the {len(split)} images of {source.spec} can be read, {split.image_name(0)} first: "
            f"{scan.bad[0]}. Expected image files.{hint}"
        )
    return scanned, closed


def _main(splits: Collection[str]) -> str:
    """Return the split that training would use, else the first."""
    return next(name for name in ("train", "all", *splits) if name in splits)


def _hashes(scanned: Scanned, memory: ScanMemory, conversation: Conversation) -> dict[str, list[str]]:
    found = exact_duplicates(
        list(scanned.values()), num_threads=num_scan_threads(), conversation=conversation, memory=memory
    )
    return dict(zip(scanned, found, strict=True))


def _held_out(
    scanned: Scanned, hashes: dict[str, list[str]], config: DataConfig
) -> tuple[np.ndarray | None, ValidationReport]:
    """Return where each training image goes when ``finetune`` divides them, and the split it validates on."""
    if "val" in scanned and config.val_fraction is None:
        own, trained = scanned["val"][0], scanned[_main(scanned)][0].class_names
        return None, ValidationReport(len(own), "the source's own split", classes_without_images(own, trained))
    name = "train" if "train" in scanned else "all"
    split, scan = scanned[name]
    good = [hashes[name][position] for position in scan.good]
    _, held_out = hold_out(split.select(scan.good), good, val_fraction=config.val_fraction, seed=config.seed)
    kept_in = np.full(len(split), "train", dtype=object)
    kept_in[scan.good[held_out]] = "val"
    reason = f"held out of {len(scan.good):,} by finetune, stratified, seed {config.seed}"
    absent = classes_without_images(split.select(scan.good[held_out]), split.class_names) if len(held_out) else ()
    return kept_in, ValidationReport(len(held_out), reason, absent)


def _warnings(scanned: Scanned, hashes: dict[str, list[str]], main: str) -> list[str]:
    split = scanned[main][0]
    found = doubtful_names(split)
    if len(split.class_names) < 2:
        found.append(f"There is one class, {split.class_names[0]!r}; a classifier needs two or more.")
    for name, (other, _) in scanned.items():
        if other.empty_classes:
            found.append(f"Class folders of split {name} without an image: {', '.join(other.empty_classes[:10])}.")
        if name != main:
            found += leaks(split, other, hashes=hashes[main], other_hashes=hashes[name])
            try:
                align_classes(other, split.class_names, where=f"split {name}")
            except DataError as error:
                found.append(str(error))
    return found


def _write(out: Path, report: DataReport, split_name: str, split: Split, scan: Scan, max_value: int | None) -> None:
    from vitctl.reporting.figures import draw_contact_sheet

    rows = sample_of_each_class(split, scan, most_classes=SHEET_CLASSES, each=SHEET_EACH)
    pictures, captions = [], []
    for name, row in zip(split.class_names, rows, strict=False):
        cells = [thumbnail(split, position, side=THUMBNAIL_PX, max_value=max_value) for position in row]
        pictures += [*cells, *[None] * (SHEET_EACH - len(cells))]
        captions += [f"{name} ({report.splits[split_name].classes[name]:,})"] * SHEET_EACH
    shown = f"{len(rows)} of {len(split.class_names)} classes" if len(rows) < len(split.class_names) else "every class"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        draw_contact_sheet(
            pictures,
            captions,
            out / "contact-sheet.png",
            columns=SHEET_EACH,
            title=f"{Path(report.data).name}: {shown}",
        )
        write_json(out / "report.json", report.as_json())
