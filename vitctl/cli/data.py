"""``vitctl data SPEC`` on the command line."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line, print_pairs
from vitctl.results.data import (
    DataReport,
    DuplicateImage,
    DuplicatesReport,
    ImagesReport,
    NearCopiesReport,
    SplitReport,
    Spread,
)
from vitctl.settings.command_line import arguments_of
from vitctl.settings.data import DataConfig
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.groups import Columns, Groups, PixelRange
from vitctl.settings.option import described, settings_of

EXAMPLES = """\
Examples:

\b
  vitctl data photos/                               one folder per class, or train/ and test/; or photos.zip
  vitctl data labels.csv --image-root photos/
  vitctl data 'shards/train-*.tar' --json
  vitctl data photos/ --model vit_small_patch16_224.augreg_in21k       and which labels look wrong
"""

MOST_CLASSES, MOST_LINES = 40, 10


@takes(DataConfig)
def data(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Say what images there are and what is wrong with them, before training.

    Counts, sizes, files that cannot be read, duplicates and near copies within and across splits, class imbalance,
    strange shapes. Writes report.json and contact-sheet.png; the data are only read. With --model it ranks the training
    images by how little the others bear out their labels: suspicious.csv and suspicious.png.
    """
    config = settings_of(DataConfig, given)
    report = run("data", config)
    if as_json:
        print_json(report)
    else:
        _print_report(report, config)


def _print_report(report: DataReport, config: DataConfig) -> None:
    images, size, validation = report.images, report.suggested_image_size, report.validation
    pairs = [
        ("data", f"{report.data}   {report.description}"),
        ("splits", ", ".join(_split(name, one) for name, one in report.splits.items())),
    ]
    if validation:
        pairs.append(("validation", f"{validation.num_images:,} images   {validation.reason}"))
    pairs += [
        ("sizes", _sizes(images)),
        ("modes", _listed(images.modes)),
        ("formats", _listed(images.formats)),
        *_depth(images),
        ("image size", f"{size.image_size[0]} px for a ViT pretrained at 224: {size.reason}"),
        ("fingerprint", report.fingerprint),
    ]
    print_pairs(pairs)
    print_line()
    _print_classes(report)
    print_line()
    for line in [*_findings(report)]:
        print_line(line)
    print_line()
    _print_labels(report, config)
    print_pairs([("files", report.out)])


def _print_labels(report: DataReport, config: DataConfig) -> None:
    """Print the labels that look wrong, where a model was given, and what to do about them."""
    if report.suspicious is None:
        return
    if report.probe_top1 is None:
        print_line("No label can be judged.")
        print_line()
        return
    found = f"{report.num_suspicious:,}" if report.num_suspicious else "No"
    label = "labels look" if report.num_suspicious and report.num_suspicious > 1 else "label looks"
    print_line(
        f"{found} {label} wrong. Of {report.model}'s features a probe on the other images finds "
        f"{report.probe_top1:.1%} of the labels; the least probable:"
    )
    print_columns(
        ("image", "class", "probability", "suggested", "probability", "flagged"),
        [
            (
                one.image,
                one.class_name,
                f"{one.probability:.2%}",
                one.suggested,
                f"{one.suggested_probability:.2%}",
                "yes" if one.is_flagged else "no",
            )
            for one in report.suspicious[:MOST_LINES]
        ],
    )
    if len(report.suspicious) > MOST_LINES:
        print_line(f"... and {len(report.suspicious) - MOST_LINES} more in suspicious.csv")
    if report.num_suspicious:
        advice = "Look at suspicious.png."
        if report.validation is None:  # nothing to train on
            print_line(advice)
        else:
            print_line(
                f"{advice} Where a label is right after all, write 'no' under flagged in suspicious.csv; correct the "
                "others, or train without them:"
            )
            print_line(f"  {shlex.join(['vitctl', 'finetune', *_cleaned(report, config)])}")
    print_line()


def _cleaned(report: DataReport, config: DataConfig) -> list[str]:
    """Return the arguments of ``finetune`` that read the same images and leave out those that are flagged."""
    how = {name: getattr(config, name) for kind in (Columns, Groups, PixelRange) for name in described(kind)}
    return arguments_of(FinetuneConfig, how | {"data": report.data, "clean": f"{report.out}/suspicious.csv"})


def _split(name: str, split: SplitReport) -> str:
    groups = "" if split.num_groups is None else f" in {_number(split.num_groups, 'group')}"
    return f"{name}: {_number(split.num_images, 'image')}{groups}"


def _print_classes(report: DataReport) -> None:
    splits = report.splits
    names = sorted({name for one in splits.values() for name in one.classes}, key=_order(report.class_names))
    rows = [(name, *(str(one.classes.get(name, 0)) for one in splits.values())) for name in names]
    print_columns(("class", *splits), rows[:MOST_CLASSES])
    if len(rows) > MOST_CLASSES:
        print_line(f"... and {len(rows) - MOST_CLASSES} more classes in report.json")


def _order(class_names: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    known = {name: index for index, name in enumerate(class_names)}
    return lambda name: (known.get(name, len(known)), name)


def _findings(report: DataReport) -> list[str]:
    """Return what a person should look at, a line each; or that there is nothing."""
    lines = []
    duplicates, shapes = report.duplicates, report.aspect_ratios
    if report.bad:
        lines.append(f"{_number(len(report.bad), 'image')} cannot be read:")
        lines += _some([f"{one.image}: {one.reason}" for one in report.bad])
    lines += _duplicate_lines("Exact duplicates, pixel for pixel", duplicates, mark="=")
    lines += _duplicate_lines("Near copies, encoded anew or resized", report.near_copies, mark="~")
    if shapes.num_images:
        lines.append(
            f"{_number(shapes.num_images, 'image')} of strange shape, one side {shapes.from_ratio:g} or more "
            "times the other (height x width):"
        )
        lines += _some([f"{one.image}: {one.size[0]}x{one.size[1]} px" for one in shapes.worst])
    if report.validation and (names := report.validation.classes_without_images):
        shown = ", ".join(names[:MOST_LINES]) + (f" and {len(names) - MOST_LINES} more" * (len(names) > MOST_LINES))
        lines.append(f"{len(names)} of {report.num_classes} classes would have no validation image: {shown}")
    if report.imbalance.advice:
        lines.append(report.imbalance.advice)
    lines += report.warnings
    return lines or (["Nothing else seems wrong."] if report.num_suspicious else ["Nothing seems wrong."])


def _duplicate_lines(what: str, found: DuplicatesReport | NearCopiesReport, *, mark: str) -> list[str]:
    """Return a line that counts the groups of ``what``, and one for each, worst first; nothing where there is none."""
    if not found.num_groups:
        return []
    counts = (
        f"{_number(found.num_extra, 'image')} too many ({_number(found.num_groups, 'group')}, "
        f"{found.num_across_splits} across splits, {found.num_across_classes} across classes):"
    )
    worst_first = sorted(found.groups, key=lambda group: -len({(one.kept_in, one.class_name) for one in group}))
    return [f"{what}: {counts}", *_some([_duplicate_line(group, mark) for group in worst_first])]


def _duplicate_line(group: Sequence[DuplicateImage], mark: str) -> str:
    shown = f" {mark} ".join(f"{one.image} ({one.class_name}, in {one.kept_in})" for one in group[:3])
    return shown + (f" and {len(group) - 3} more" if len(group) > 3 else "")


def _some(lines: list[str]) -> list[str]:
    more = [f"  ... and {len(lines) - MOST_LINES} more in report.json"] if len(lines) > MOST_LINES else []
    return [f"  {line}" for line in lines[:MOST_LINES]] + more


def _sizes(images: ImagesReport) -> str:
    height, width = images.height_px, images.width_px
    if images.num_sizes == 1:
        return f"all {height.least}x{width.least} px (height x width)"
    return f"height {_spread(height)}, width {_spread(width)} px (least/median/greatest)"


def _depth(images: ImagesReport) -> list[tuple[str, str]]:
    """Return the row of the images of 16 bits, where there are any."""
    if not images.num_16_bit:
        return []
    brightest = f"the brightest value is {images.brightest_16_bit or 0:,} of 65,535"
    return [("bit depth", f"16-bit, {_number(images.num_16_bit, 'image')}; {brightest}")]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _spread(values: Spread) -> str:
    return f"{values.least:g}/{values.median:g}/{values.greatest:g}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
