"""``vitctl data``: what images there are, and what is wrong with them, before an hour is lost."""

from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.depth import decide_max_value, depth_of, doubts_about_range
from vitctl.data.endings import left_out_sentence, together
from vitctl.data.listed_images import check_not_edited, write_suspicious
from vitctl.data.scan import Scan
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import open_source
from vitctl.data.survey import (
    describe_bad,
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
from vitctl.data.surveyed_splits import doubts_of, hashes_of, main_split, scan_splits, where_kept
from vitctl.evaluation.evaluating import Computing
from vitctl.evaluation.suspicious_labels import (
    SuspiciousLabels,
    doubts_about_model,
    names_of_copies,
    suspicious_labels,
)
from vitctl.models.choices import decide_image_size
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.primitives.devices import resolve_device
from vitctl.primitives.files import user_path, write_json
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.results.data import DataReport, SuggestedSize
from vitctl.settings.data import DataConfig

REPORT, LIST = "report.json", "suspicious.csv"
SHEET_CLASSES, SHEET_EACH, THUMBNAIL_PX = 24, 8, 96
BATCH_SIZE = 64  # images that a model sees at a time; no feature depends on it
SHEET_LABELS = 40  # images whose labels look wrong
USUAL_SIZE, USUAL_PATCH = (224, 224), (16, 16)  # of most pretrained ViTs; the suggestion is for one of those


def run(config: DataConfig, conversation: Conversation) -> DataReport:
    """Look at every image, write report and contact sheet, and return the report.

    Raises:
        VitctlError: The data cannot be opened, or no image decodes; nothing was written.
    """
    source = open_source(str(config.data), SourceOptions.of(config))
    out = _decide_out(config, source)
    check_writable(out)
    if config.model is not None:
        check_not_edited(out / LIST, out / REPORT)
    opened = _open(config, conversation)
    with ScanMemory(conversation) as memory:
        scanned, closed = scan_splits(
            source, group_pattern=config.group_pattern, memory=memory, conversation=conversation
        )
        hashes = hashes_of(scanned, memory, conversation)
    main = main_split(scanned)
    split, scan = scanned[main]
    depth, own_range = depth_of([seen for _, seen in scanned.values()]), depth_of([scan])
    max_value = decide_max_value(config.max_value, own_range).value
    doubts = doubts_about_range(depth, max_value, is_given=config.max_value is not None)
    kept_in, validation = (
        where_kept(scanned, hashes, val_fraction=config.val_fraction, seed=config.seed)
        if main in ("train", "all")
        else (None, None)
    )
    near = describe_near_copies(scanned, hashes, kept_in)
    labels = None
    if opened is not None:
        good, digests = good_images(split, scan), [hashes[main][position] for position in scan.good]
        labels = suspicious_labels(
            good,
            names_of_copies(good, digests, near.groups),
            opened,
            Computing(resolve_device(config.device)[0], config.batch_size or BATCH_SIZE, config.num_workers),
            is_in_memory=source.is_in_memory,
            max_value=max_value,
            seed=config.seed,
            conversation=conversation,
        )
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
        bad=describe_bad(scanned),
        duplicates=describe_duplicates(scanned, hashes, kept_in),
        near_copies=near,
        imbalance=describe_imbalance(split),
        aspect_ratios=strange_shapes(scanned),
        warnings=(
            *source.sentences(*(one for one, _ in scanned.values())),
            *unread,
            *closed,
            *doubts_of(scanned, hashes, main),
            *doubts,
            *([] if opened is None else [*opened.notes, *doubts_about_model(opened.spec, scan)]),
            *([] if labels is None else labels.notes),
        ),
        fingerprint=fingerprint(scanned),
        out=str(out),
        model=None if opened is None else opened.name,
        probe_top1=None if labels is None else labels.probe_top1,
        num_suspicious=None if labels is None else labels.num_flagged,
        suspicious=None if labels is None else labels.listed,
    )
    _write(out, report, main, split, scan, max_value)
    if labels is not None:
        _write_labels(out, labels, split.select(scan.good), max_value)
    return report


def _open(config: DataConfig, conversation: Conversation) -> PreparedModel | None:
    """Return the model to judge labels by, if there is to be one: before the scan, which takes longer."""
    if config.model is None:
        return None
    resolve_device(config.device)
    conversation.line(f"loading {config.model}")
    return open_model(config.model, weights=config.weights, image_size=config.image_size, model_args=config.model_args)


def _decide_out(config: DataConfig, source: Source) -> Path:
    if config.out is None:
        name = Path(str(config.data).removeprefix("hub:").rstrip("/")).name
        out = Path(f"data-{Path(name).stem.replace('*', '').strip('-_.') or 'report'}").absolute()
    else:
        out = user_path(config.out).absolute()
    check_elsewhere(out, [source.spec])
    return out


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
        write_json(out / REPORT, report.as_json())


def _write_labels(out: Path, labels: SuspiciousLabels, split: Split, max_value: int | None) -> None:
    """Write ``suspicious.csv`` and ``suspicious.png``, of the images ``split`` that can be read."""
    from vitctl.reporting.figures import draw_contact_sheet

    with writing(out):
        write_suspicious(out / LIST, labels.listed)
        draw_contact_sheet(
            [
                thumbnail(split, position, side=THUMBNAIL_PX, max_value=max_value)
                for position in labels.positions[:SHEET_LABELS].tolist()
            ],
            [
                f"label {one.class_name}\n{one.suggested}? {one.suggested_probability:.1%}"
                for one in labels.listed[:SHEET_LABELS]
            ],
            out / "suspicious.png",
            columns=SHEET_EACH,
            title="Least probable labels first; below each what is more probable",
        )
