"""``vitctl evaluate``: how good a classifier is on a split, with intervals, calibration and every prediction."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitctl.conversation import Conversation, Setting
from vitctl.data.endings import left_out_settings
from vitctl.data.looks import Looks
from vitctl.data.run_images import Images, images_of_run, named_images
from vitctl.data.seen_images import doubts_about_seen, seen_in_training, seen_settings
from vitctl.data.source import SourceOptions, Split, align_classes
from vitctl.data.survey import thumbnail
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.baseline import majority_baseline
from vitctl.evaluation.classify import probabilities
from vitctl.evaluation.evaluating import Computing, check_images
from vitctl.evaluation.metrics import classification_report, confusion, per_class_report, seen_report
from vitctl.models.prepared import open_model
from vitctl.models.run_folders import is_run_folder, run_of
from vitctl.primitives.csv_files import write_csv
from vitctl.primitives.devices import resolve_device, resolve_num_threads
from vitctl.primitives.documents import why_unreadable
from vitctl.primitives.files import user_path, write_json
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.primitives.process_group import join_processes
from vitctl.results.evaluate import EvaluateResult
from vitctl.settings.evaluate import EvaluateConfig

SHEET_IMAGES, SHEET_COLUMNS, THUMBNAIL_PX = 40, 8, 96


def run(config: EvaluateConfig, conversation: Conversation) -> EvaluateResult:
    """Evaluate, write predictions and confusion matrix, and return the figures; of several processes the first writes.

    Raises:
        VitctlError: The model or the images cannot be used; nothing was written.
    """
    device, device_reason = resolve_device(config.device)
    processes = join_processes(device)
    device = processes.device
    resolve_num_threads(config.num_threads)
    spec = config.run or config.model or ""
    conversation.line(f"loading {spec}")
    opened = open_model(spec, weights=config.weights, model_args=config.model_args)
    class_names = opened.class_names
    looks, run = Looks(conversation, processes), run_of(config.run or config.model)
    images = _choose_images(config, class_names, run, looks)
    out = _decide_out(config, images)
    check_writable(out)
    check_elsewhere(out, [images.spec])
    for note in (*opened.notes, *images.source.sentences(images.split), *images.notes):
        conversation.warn(note)
    checked = check_images(images, looks, conversation, may_skip=config.on_bad_image == "skip")
    split, seen = checked.images.split, seen_in_training(checked.scan, run)
    for sentence in (*checked.doubts_about_range(opened), *doubts_about_seen(seen)):
        conversation.warn(sentence)
    computing = Computing(device, config.batch_size, config.num_workers, processes)
    workers = computing.workers(images, opened)
    conversation.header(
        "vitctl evaluate",
        [
            Setting("model", opened.name),
            Setting("images", f"{len(split):,} of {images.spec}", images.reason),
            *left_out_settings(images.split.left_out),
            *seen_settings(seen),
            Setting("image size", f"{format_size(opened.image_size)} px", "the model's own"),
            Setting("device", processes.place, device_reason),
            *([Setting("workers", str(workers.number), workers.reason)] if workers.is_reduced else []),
            Setting("files", str(out)),
        ],
    )
    logits = computing.logits(opened, split, workers, description="evaluating", conversation=conversation)
    shares = probabilities(logits)
    predicted = logits.argmax(axis=1)
    report = EvaluateResult(
        model=opened.name,
        data=images.spec,
        split=images.split_name,
        image_size=opened.image_size,
        **classification_report(logits, shares, split.labels),
        **seen_report(predicted, split.labels, seen.is_seen),
        **majority_baseline(predicted, split.labels, class_names),
        num_skipped=len(checked.scan.bad),
        per_class=per_class_report(predicted, split.labels, class_names),
        out=str(out),
        left_out=images.split.left_out,
    )
    if processes.is_first:
        _write_files(out, report, split, predicted, shares, class_names, max_value=opened.preprocessing.max_value)
    processes.keep_logs(out)
    return report


def _choose_images(config: EvaluateConfig, class_names: Sequence[str], of: Path | None, looks: Looks) -> Images:
    """Return the images to evaluate on: those asked for, else the validation images of the run that the model is of."""
    run = user_path(config.run) if config.run else None
    if run is not None and not is_run_folder(run):
        run = of or run  # a folder of weights in one
    if config.data is None and run is not None and is_run_folder(run):
        advice = "Where they have moved, say where with --data SPEC; or evaluate on others, or on --split test."
        chosen = images_of_run(run, config.split, advice=advice, look=looks.scan)
    elif config.data is None:
        if run is not None and (why := why_unreadable(run / "config.json")):
            raise DataError(f"{run / 'config.json'} cannot be read: {why}; name images with --data SPEC.")
        raise SettingError(
            f"There is no run at {config.run or config.model} to take images from; name some with --data SPEC.",
            field="data",
        )
    else:
        chosen = named_images(config.data, config.split, SourceOptions.of(config), run=of, look=looks.scan)
    where = f"split {chosen.split_name} of {chosen.spec}"
    advice = "Fine-tune the model on these classes first: vitctl finetune --data SPEC."
    aligned = align_classes(chosen.split, class_names, where=where, advice=advice)
    return replace(chosen, split=aligned)


def _decide_out(config: EvaluateConfig, images: Images) -> Path:
    if config.out is not None:
        return user_path(config.out).absolute()
    name = f"evaluate-{images.split_name}"
    run = user_path(config.run) if config.run else None
    return (run / name if run is not None and is_run_folder(run) else Path(name)).absolute()


def _write_files(
    out: Path,
    report: EvaluateResult,
    split: Split,
    predicted: np.ndarray,
    shares: np.ndarray,
    class_names: Sequence[str],
    *,
    max_value: int | None,
) -> None:
    matrix = confusion(predicted, split.labels, num_classes=len(class_names))
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "predictions.csv", _prediction_rows(split, predicted, shares, class_names))
        counts = [(name, *row.tolist()) for name, row in zip(class_names, matrix, strict=True)]
        write_csv(out / "confusion.csv", [("true \\ predicted", *class_names), *counts])
        from vitctl.reporting.figures import draw_confusion

        draw_confusion(matrix, class_names, out / "confusion.png", title=f"split {report.split}")
        _draw_highest_loss(out / "highest-loss.png", split, predicted, shares, class_names, max_value=max_value)
        write_json(out / "evaluation.json", report.as_json())


def _prediction_rows(
    split: Split, predicted: np.ndarray, shares: np.ndarray, class_names: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    yield "image", "true", "predicted", "probability", "probability_of_true"
    for index in range(len(split)):
        true, guess = int(split.labels[index]), int(predicted[index])
        figures = (f"{shares[index, guess]:.6f}", f"{shares[index, true]:.6f}")
        yield split.image_name(index), class_names[true], class_names[guess], *figures


def _draw_highest_loss(
    path: Path,
    split: Split,
    predicted: np.ndarray,
    shares: np.ndarray,
    class_names: Sequence[str],
    *,
    max_value: int | None,
) -> None:
    """Draw the images whose true class got the least probability, worst first."""
    from vitctl.reporting.figures import draw_contact_sheet

    of_true = shares[np.arange(len(split)), split.labels]
    worst = np.argsort(of_true, kind="stable")[:SHEET_IMAGES].tolist()
    captions = []
    for index in worst:
        true, guess = int(split.labels[index]), int(predicted[index])
        answer = "right" if true == guess else f"→ {class_names[guess]}: {shares[index, guess]:.1%}"
        captions.append(f"{class_names[true]}: {of_true[index]:.1%}\n{answer}")
    pictures = [thumbnail(split, index, side=THUMBNAIL_PX, max_value=max_value) for index in worst]
    title = f"highest loss of {len(split):,} images, worst first: probability of the true class → of what was predicted"
    draw_contact_sheet(pictures, captions, path, columns=SHEET_COLUMNS, title=title)
