"""From findings to what ``vitctl inspect`` returns and writes: arrays by name, and the document that explains them."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.inspecting.catalogue import Analysis
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.inspection import Inspection, Named
from vitctl.inspecting.subjects import LoadedSubject
from vitctl.primitives.atomic import partial_beside, sync, sync_names
from vitctl.primitives.files import write_json
from vitctl.primitives.outputs import writing
from vitctl.results.inspect_model import AnalysisFindings, InspectedImages, InspectedModel, InspectResult
from vitctl.settings.inspect_model import InspectConfig, OnImages
from vitctl.settings.option import described, option_of
from vitctl.settings.words import PRETRAINED

ENDINGS = ("npz", "json", "png")
_NOT_SAID = ("run", "model", "weights", "num_workers", "num_threads", "device", "out")


def result_of(
    analysis: Analysis,
    options: InspectConfig,
    found: Sequence[Named],
    inspection: Inspection,
    *,
    settings: Mapping[str, Any],
    out: str,
) -> InspectResult:
    """Return the result of one analysis.

    Args:
        analysis: Which.
        options: Its settings.
        found: What it found.
        inspection: The images.
        settings: Those that the document says.
        out: Folder of the files.
    """
    words = replace(analysis.words, **found[0].findings.words)
    return InspectResult(
        analysis=analysis.name,
        title=words.title,
        results=tuple(_findings(named) for named in found),
        images=_images(options, found[0].findings, inspection),
        arrays=_numbered(found, "meanings"),
        method=words.method,
        look_for=words.look_for,
        random_weights=words.random_weights,
        source=words.source,
        settings=settings,
        files=tuple(f"{analysis.name}.{ending}" for ending in ENDINGS),
        out=out,
    )


def write_files(
    result: InspectResult,
    found: Sequence[Named],
    out: Path,
    *,
    draw: Callable[[str, Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]], Path], None],
) -> None:
    """Write arrays, document and picture of an analysis, all of them or none.

    Args:
        result: What the document says.
        found: The arrays, and what is drawn.
        out: Folder; it is made.
        draw: Writes the picture, from the analysis's name and the name, arrays and facts of each model.

    Raises:
        SettingError: The folder cannot be written.
    """
    name = result.analysis
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with partial_beside(out / name, is_folder=True) as folder:  # what a killed run left there is used again
            with (folder / f"{name}.npz").open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **_numbered(found, "arrays"))
            draw(
                name,
                [(named.name, named.findings.arrays, named.findings.facts) for named in found],
                folder / f"{name}.png",
            )
            document = result.as_json()
            del document["out"]  # the files may move
            write_json(folder / f"{name}.json", document)
            sync(folder)
            for file_name in result.files:
                os.replace(folder / file_name, out / file_name)
            sync_names(out)


def command_of(options: InspectConfig) -> str:
    """Return the command that repeats one analysis of ``all``."""
    known = described(type(options))
    words = ["vitctl", "inspect", options.analysis, *([options.run] if options.run is not None else [])]
    models = options.named[options.run is not None :]
    are_pretrained = all(weights == PRETRAINED for _, weights in models)
    for model, weights in models:
        words += ["--model", model, *([] if are_pretrained else ["--weights", weights])]
    for name, value in options.as_json(without=_NOT_SAID).items():
        if value != known[name].default:
            words += [option_of(name), str(value)]
    return shlex.join(words)


def _numbered(found: Sequence[Named], values: str) -> dict[str, Any]:
    """Return ``arrays`` or ``meanings`` of all findings by name; those of the second model end in ``_2``, and so on."""
    return {
        name if number == 1 else f"{name}_{number}": value
        for number, named in enumerate(found, start=1)
        for name, value in getattr(named.findings, values).items()
    }


def _findings(named: Named) -> AnalysisFindings:
    findings = named.findings
    return AnalysisFindings(
        name=named.name,
        models=tuple(_model(one) for one in named.models),
        facts=findings.facts,
        header=tuple(findings.header),
        rows=tuple(tuple(row) for row in findings.rows),
        notes=tuple(findings.notes),
    )


def _model(one: LoadedSubject) -> InspectedModel:
    geometry = one.subject.geometry
    return InspectedModel(
        name=one.choice.name,
        model=one.choice.spec,
        weights=one.choice.weights,
        image_size=geometry.image_size,
        patch_size=geometry.patch_size,
        grid=geometry.grid,
        num_prefix_tokens=geometry.num_prefix_tokens,
    )


def _images(options: InspectConfig, findings: Findings, inspection: Inspection) -> InspectedImages | None:
    """Return which images were shown; None where only weights were looked at."""
    if findings.images is not None or not isinstance(options, OnImages):
        return findings.images
    images = inspection.images
    return InspectedImages(
        data=images.spec,
        num_images=min(len(images.split) if options.files is not None else options.count, len(images.split)),
        num_available=images.num_available,
        reason=images.reason,
    )
