"""``vitctl compare``: runs on the same images, what differs between them, and how sure that is."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vitctl.conversation import Conversation, Setting
from vitctl.data.looks import Looks
from vitctl.data.run_images import named_images, specs_of_run
from vitctl.data.source import SourceOptions
from vitctl.evaluation.compared import compared_pairs, row_figures
from vitctl.evaluation.disagreement import Disagreement, disagreement
from vitctl.evaluation.evaluating import Checked, Computing
from vitctl.evaluation.row_tables import RowTables
from vitctl.primitives.csv_files import write_csv
from vitctl.primitives.devices import resolve_device, resolve_num_threads
from vitctl.primitives.documents import peek_document
from vitctl.primitives.files import user_path, whole_folder, write_json
from vitctl.primitives.formatting import format_setting
from vitctl.primitives.outputs import check_elsewhere, check_replaceable, writing
from vitctl.results.compare import ComparedPair, ComparedRow, CompareResult
from vitctl.run_folders.differing import SEED, differing, settings_of_run
from vitctl.run_folders.given_runs import finished_runs
from vitctl.run_folders.pictures import ShownImages
from vitctl.run_folders.rows import RunRow, rows_of
from vitctl.run_folders.said import Saying
from vitctl.run_folders.same_images import SameImages, on_same_images
from vitctl.run_folders.seen import SeenRun
from vitctl.settings.compare import CompareConfig

DOCUMENT = "compare.json"
FILES = (DOCUMENT, "compare.csv", "pairs.csv", "disagreements.csv", "curves.png", "disagreements.png")


def run(config: CompareConfig, conversation: Conversation) -> CompareResult:
    """Compare runs on the same images, write tables and pictures, and return the figures.

    Raises:
        VitctlError: A run cannot be used, or their images are not the same; nothing was written.
    """
    device, device_reason = resolve_device(config.device)
    resolve_num_threads(config.num_threads)
    seen = finished_runs(config.runs, conversation)
    settings = [settings_of_run(one.path) for one in seen]
    rows = rows_of([one.path for one in seen], settings)
    out = user_path(config.out or "compare").absolute()
    is_ours = "pairs" in peek_document(out / DOCUMENT)
    check_replaceable(out, FILES if is_ours else (), by="vitctl compare")
    check_elsewhere(out, [spec for one in seen for spec in specs_of_run(one.path)])

    looks = Looks(conversation)
    computing = Computing(device, config.batch_size, config.num_workers)
    saying = Saying(config.which, computing, config.on_bad_image == "skip", looks, conversation)
    given = _given_images(config, seen, saying)
    same = _what_they_say(rows, given, saying)
    num_equal = len(set().union(*settings) - {SEED, *differing(settings)})
    images, why = _which_images(rows, given)
    if given is not None:
        check_elsewhere(out, [given.images.spec])
    conversation.header(
        "vitctl compare",
        [
            Setting("runs", f"{len(seen)} in {len(rows)} rows", "those that differ in the seed alone are one row"),
            Setting("differing", ", ".join(rows[0].settings) or "nothing", f"{num_equal} settings are equal"),
            Setting("images", f"{len(same.labels):,}, {images}", why),
            Setting("weights", config.which),
            *([Setting("device", str(device), device_reason)] if given is not None else []),
            Setting("files", str(out)),
        ],
    )
    tables = _tables(rows, same)
    conversation.line("resampling images and runs")
    pairs, notes = compared_pairs(tables, seed=config.seed)
    odd = disagreement(tables)
    shown = ShownImages.of_run(rows[0].runs[0], same.hashes)
    if given is not None:
        shown = ShownImages(same.hashes, given.images.split.image_names(), given.images.split)
    if shown.why:
        notes.append(f"Without pictures of the images on which rows disagree: {shown.why}")
    with writing(out), whole_folder(out) as partial:
        notes += _draw(partial, rows, seen, odd, same, shown, looks)
        result = CompareResult(
            images=images,
            num_images=len(same.labels),
            which=config.which,
            rows=tuple(_row(row, table, seed=config.seed) for row, table in zip(rows, tables, strict=True)),
            pairs=tuple(pairs),
            num_equal_settings=num_equal,
            num_disagreements=len(odd.positions),
            out=str(out),
            notes=tuple(notes),
        )
        write_json(partial / DOCUMENT, result.as_json())
        write_csv(partial / "compare.csv", _csv_of_rows(result.rows))
        write_csv(partial / "pairs.csv", _csv_of_pairs(result.pairs))
        write_csv(partial / "disagreements.csv", _csv_of_disagreements(rows, odd, same, shown.names))
    for note in notes:
        conversation.warn(note)
    return result


def _which_images(rows: Sequence[RunRow], given: Checked | None) -> tuple[str, str]:
    """Return which images all were evaluated on, and why these."""
    if given is None:
        return f"validation images of {rows[0].runs[0]}", "all runs have the same, by content"
    return f"split {given.images.split_name} of {given.images.spec}", given.images.reason


def _given_images(config: CompareConfig, seen: Sequence[SeenRun], saying: Saying) -> Checked | None:
    """Return the images of --on that can be read; None where the runs' own are meant."""
    if config.on is None:
        return None
    # of the first run comes the level of class folders, where nobody said another
    images = named_images(config.on, config.split, SourceOptions.of(config), run=seen[0].path)
    for note in (*images.source.sentences(images.split), *images.notes):
        saying.conversation.warn(note)
    return saying.checked(images)


def _what_they_say(rows: Sequence[RunRow], given: Checked | None, saying: Saying) -> SameImages:
    runs = [run for row in rows for run in row.runs]
    said = [saying.of_own_images(run) if given is None else saying.of_images(run, given) for run in runs]
    advice = (
        "Compare all on one set of images with --on SPEC; runs have the same validation images where --val, or the "
        "data and --split-seed, are the same."
    )
    return on_same_images(said, [str(run) for run in runs], advice=advice)


def _tables(rows: Sequence[RunRow], same: SameImages) -> list[RowTables]:
    logits = iter(same.logits)
    return [RowTables.of(row.name, row.seeds, [next(logits) for _ in row.runs], same.labels) for row in rows]


def _row(row: RunRow, table: RowTables, *, seed: int) -> ComparedRow:
    runs = tuple(map(str, row.runs))
    return ComparedRow(name=row.name, runs=runs, settings=row.settings, **row_figures(table, seed=seed))


def _draw(
    folder: Path,
    rows: Sequence[RunRow],
    seen: Sequence[SeenRun],
    odd: Disagreement,
    same: SameImages,
    shown: ShownImages,
    looks: Looks,
) -> list[str]:
    """Draw how the runs learnt, and images on which rows disagree; return what could not be drawn."""
    from vitctl.reporting import compare_figures as figures

    notes, learnt = [], []
    batch_sizes = {one.path: one.config.get("batch_size") for one in seen}
    for number, row in enumerate(rows):
        for run in row.runs:
            try:
                learnt.append(figures.Learning.of(run, row=number, batch_size=int(batch_sizes[run] or 1)))
            except figures.UnreadableLearning as error:
                notes.append(f"Without the curves of {run}: {error}.")
    if learnt:
        figures.draw_learning(learnt, [row.name for row in rows], folder / "curves.png")
    chosen = odd.positions[: figures.SHEET_IMAGES].tolist()
    white = seen[0].config.get("max_value")
    pictures = shown.pictures(
        chosen, side=figures.THUMBNAIL_PX, looks=looks, max_value=white if isinstance(white, int) else None
    )
    if any(picture is not None for picture in pictures):
        opinions = [
            [
                figures.Opinion(row.name, same.class_names[odd.predicted[number, position]], confidence)
                for number, (row, confidence) in enumerate(zip(rows, odd.confidence[:, position], strict=True))
            ]
            for position in chosen
        ]
        truths = [same.class_names[same.labels[position]] for position in chosen]
        path = folder / "disagreements.png"
        figures.draw_disagreements(pictures, truths, opinions, path, num_in_all=len(odd.positions))
    return notes


def _csv_of_rows(rows: Sequence[ComparedRow]) -> Iterator[tuple[object, ...]]:
    names = list(rows[0].settings)
    figures = ("top1", "nll", "brier", "ece")
    yield "row", *names, "runs", *(column for name in figures for column in (name, f"{name}_low", f"{name}_high"))
    for row in rows:
        values = (value for name in figures for value in (getattr(row, name), *getattr(row, f"{name}_ci95")))
        yield row.name, *(format_setting(row.settings[name]) for name in names), len(row.runs), *values


def _csv_of_pairs(pairs: Sequence[ComparedPair]) -> Iterator[tuple[object, ...]]:
    document = [pair.as_json() for pair in pairs]
    header = [
        column for name in document[0] for column in ([f"{name}_low", f"{name}_high"] if "ci95" in name else [name])
    ]
    yield tuple(header)
    for pair in document:
        yield tuple(cell for value in pair.values() for cell in (value if isinstance(value, list) else [value]))


def _csv_of_disagreements(
    rows: Sequence[RunRow], odd: Disagreement, same: SameImages, names: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    yield "image", "true", *(column for row in rows for column in (row.name, f"probability of {row.name}"))
    for position in odd.positions.tolist():
        said = zip(odd.predicted[:, position], odd.confidence[:, position], strict=True)
        cells = (cell for guess, sure in said for cell in (same.class_names[guess], f"{sure:.6f}"))
        yield names[position], same.class_names[same.labels[position]], *cells
