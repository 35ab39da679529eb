"""``vitctl inspect``: how a ViT sees, one analysis at a time or all of them with a report.

Every analysis leaves ``NAME.npz`` (arrays), ``NAME.json`` (settings, scalars, what each array is) and ``NAME.png``.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.data.run_images import specs_of_run
from vitctl.errors import DataError, ModelError, SettingError, VitctlError
from vitctl.inspecting.analyses import ANALYSES, Analysis
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.verdicts import CONTROLLED, judge
from vitctl.primitives.devices import enough_memory, resolve_device, resolve_num_threads
from vitctl.primitives.files import user_path, write_json
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.interrupts import termination_as_error
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.reporting.inspect_figures import draw_findings
from vitctl.reporting.inspect_report import Claim, Panel, Section, Skipped, write_report
from vitctl.results.inspect_model import (
    AnalysisFindings,
    InspectAllResult,
    InspectedImages,
    InspectedModel,
    InspectResult,
    SkippedAnalysis,
    Verdict,
)
from vitctl.settings.inspect_model import InspectConfig
from vitctl.settings.option import described, option_of
from vitctl.settings.words import ALL_ANALYSES, DIGITS
from vitctl.workflows.inspect_analyses import Inspection, Named, num_images_of, run_analysis, run_what_fits
from vitctl.workflows.inspect_subjects import LoadedSubject, choose_models, run_of

DEFAULT_OUT = "inspect"
REPORT = "report.html"
ENDINGS = ("npz", "json", "png")
CONTROL_FOLDER = "random-weights"
_NOT_OF_ONE = ("analysis", "run", "model", "weights", "num_workers", "num_threads", "device", "out")
_NOT_OF_RESULTS = ("analysis", "batch_size", "num_workers", "num_threads", "device", "out")


def run(config: InspectConfig, conversation: Conversation) -> InspectResult | InspectAllResult:
    """Inspect, write arrays, figures (and the report), and return what was found.

    Raises:
        VitctlError: A model, an option or the images cannot be used; of the analysis nothing was written.
    """
    out = _decide_out(config)
    check_writable(out)
    device, device_reason = resolve_device(config.device)
    resolve_num_threads(config.num_threads)
    inspection = Inspection(config, choose_models(config), device=device, conversation=conversation)
    memory = enough_memory(device, config.batch_size, "--minibatch")
    with termination_as_error(f"terminated; what is whole lies in {out}."), memory:
        _open(inspection, out)
        conversation.header("vitctl inspect", _settings(inspection, device_reason, out))
        if config.analysis == ALL_ANALYSES:
            return _inspect_all(inspection, out)
        found = run_analysis(config.analysis, inspection)
        _warn(found, inspection, set())
        return _write(config.analysis, found, inspection, out)


def _open(inspection: Inspection, out: Path) -> None:
    """Load the models and look at the images before anything slow begins."""
    config = inspection.config
    models = inspection.loaded
    check_elsewhere(out, [str(user_path(spec).absolute()) for spec in _data_of(config)])
    if config.image_size is None and len({one.subject.geometry.image_size for one in models}) > 1:
        sizes = ", ".join(format_size(one.subject.geometry.image_size) for one in models)
        inspection.conversation.line(f"The models look at images of their own sizes: {sizes} px.")
    if _shows_images(config.analysis):
        _ = inspection.images


def _data_of(config: InspectConfig) -> list[str]:
    """Return the data specs that are read, or that the run was made with."""
    run = run_of(config)
    return [*([config.data] if config.data is not None else []), *(specs_of_run(user_path(run)) if run else [])]


def _shows_images(analysis: str) -> bool:
    """Return whether the images of ``choose_images`` are needed; a probe draws its own."""
    return analysis == ALL_ANALYSES or (ANALYSES[analysis].needs_images and analysis != "probe")


def _decide_out(config: InspectConfig) -> Path:
    if config.out is not None:
        return user_path(config.out).absolute()
    run = run_of(config)
    return Path(run) / DEFAULT_OUT if run is not None else Path(DEFAULT_OUT).absolute()


# --- one analysis ------------------------------------------------------------------------------------------


def _warn(found: Sequence[Named], inspection: Inspection, said: set[str]) -> None:
    """Say every note once, however many analyses have it."""
    for named in found:
        for note in named.findings.notes:
            if note not in said:
                inspection.conversation.warn(note if len(inspection.models) == 1 else f"{named.name}: {note}")
            said.add(note)


def _write(analysis: str, found: Sequence[Named], inspection: Inspection, out: Path) -> InspectResult:
    """Write the three files of an analysis and return what the JSON file says."""
    result = _result(analysis, found, inspection, out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out, prefix=".") as folder:
            with (Path(folder) / f"{analysis}.npz").open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **_arrays(found))
            shown = [(named.name, named.findings.arrays, named.findings.facts) for named in found]
            draw_findings(analysis, shown, Path(folder) / f"{analysis}.png")
            document = result.as_json()
            del document["out"]  # the files may move
            write_json(Path(folder) / f"{analysis}.json", document)
            for ending in ENDINGS:
                os.replace(Path(folder) / f"{analysis}.{ending}", out / f"{analysis}.{ending}")
    return result


def _arrays(found: Sequence[Named]) -> dict[str, np.ndarray]:
    """Return every array by name; those of the second model end in ``_2``, of the third in ``_3``."""
    return {
        name if number == 1 else f"{name}_{number}": array
        for number, named in enumerate(found, start=1)
        for name, array in named.findings.arrays.items()
    }


def _words(analysis: str, config: InspectConfig) -> Analysis:
    words = ANALYSES[analysis]
    return words.of_diagonal() if config.diagonal else words


def _result(analysis: str, found: Sequence[Named], inspection: Inspection, out: Path) -> InspectResult:
    words = _words(analysis, inspection.config)
    return InspectResult(
        analysis=analysis,
        title=words.title,
        results=tuple(_findings(named) for named in found),
        images=_images(analysis, found, inspection),
        arrays={
            name if number == 1 else f"{name}_{number}": meaning
            for number, named in enumerate(found, start=1)
            for name, meaning in named.findings.meanings.items()
        },
        method=words.method,
        look_for=words.look_for,
        random_weights=words.random_weights,
        source=words.source,
        settings={"vitctl": __version__} | inspection.config.as_json(without=_NOT_OF_RESULTS),
        files=tuple(f"{analysis}.{ending}" for ending in ENDINGS),
        out=str(out),
    )


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


def _images(analysis: str, found: Sequence[Named], inspection: Inspection) -> InspectedImages | None:
    """Return which images were shown; None where only weights were looked at."""
    if analysis == "probe":
        facts = found[0].findings.facts
        reason = f"test images; {facts['num_support']} of the others in each support"
        return InspectedImages(data=facts["data"], num_images=facts["num_test"], num_available=None, reason=reason)
    if not _shows_images(analysis):
        return None
    images, config = inspection.images, inspection.config
    wanted = len(images.split) if config.image is not None else num_images_of(analysis, config)
    return InspectedImages(
        data=images.spec,
        num_images=min(wanted, len(images.split)),
        num_available=images.num_available,
        reason=images.reason,
    )


# --- all of them -------------------------------------------------------------------------------------------


def _inspect_all(inspection: Inspection, out: Path) -> InspectAllResult:
    """Run everything that fits the models, the first of them also with random weights, and write the report."""
    conversation = inspection.conversation
    control = inspection.of_models([inspection.models[0].with_random_weights])
    results: dict[str, InspectResult] = {}
    skipped: list[SkippedAnalysis] = []
    verdicts: list[Verdict] = []
    sections: list[Section] = []
    said: set[str] = set()
    if inspection.models[0].is_random:
        conversation.line(f"{inspection.models[0].name}: nothing is judged, and there is no control beside it.")
    with conversation.progress("inspecting", len(ANALYSES), "analyses") as bar:
        for analysis in ANALYSES:
            try:
                found, refused = run_what_fits(analysis, inspection)
            except (ModelError, SettingError, DataError) as error:
                conversation.line(f"{analysis}: left out. {error}")
                skipped.append(SkippedAnalysis(analysis, None, str(error)))
                bar.advance(what=analysis)
                continue
            for one, reason in refused:
                conversation.line(f"{analysis}: without {one.choice.name}. {reason}")
                skipped.append(SkippedAnalysis(analysis, one.choice.name, reason))
            _warn(found, inspection, said)
            results[analysis] = _write(analysis, found, inspection, out)
            beside, judged = None, list[Verdict]()
            if found[0].models[0].choice == inspection.models[0] and not inspection.models[0].is_random:
                beside = _control(analysis, control, inspection, out) if analysis in CONTROLLED else None
            if not any(one.choice.is_random for one in found[0].models):
                judged = judge(analysis, found[0].findings, beside)
            verdicts += judged
            sections.append(_section(analysis, found, beside, judged, inspection, out))
            conversation.line(f"{analysis}: done")
            bar.advance(what=analysis)
    if not results:
        reasons = "\n".join(f"  {one.analysis}: {one.reason}" for one in skipped)
        raise ModelError(f"No analysis takes this model:\n{reasons}")
    names = " and ".join(model.name for model in inspection.models)
    with writing(out / REPORT):
        write_report(
            out / REPORT,
            title=f"How {names} see{'s' * (len(inspection.models) == 1)}",
            facts=[
                (setting.name, f"{setting.value} ({setting.reason})" if setting.reason else setting.value)
                for setting in _settings(inspection, "", out)
            ],
            sections=sections,
            verdicts=[_claim(verdict) for verdict in verdicts],
            skipped=[Skipped(_left_out(one), one.reason) for one in skipped],
        )
    return InspectAllResult(
        analyses=results,
        verdicts=tuple(verdicts),
        skipped=tuple(skipped),
        report=str(out / REPORT),
        out=str(out),
    )


def _left_out(one: SkippedAnalysis) -> str:
    return one.analysis if one.model is None else f"{one.analysis} of {one.model}"


def _control(analysis: str, control: Inspection, inspection: Inspection, out: Path) -> Findings | None:
    """Return what ``analysis`` finds in random weights, written beside; None where it cannot be made of them."""
    try:
        found = run_analysis(analysis, control)
    except VitctlError as error:
        inspection.conversation.line(f"{analysis}: without its control of random weights. {error}")
        return None
    _write(analysis, found, control, out / CONTROL_FOLDER)
    return found[0].findings


def _section(
    analysis: str,
    found: Sequence[Named],
    beside: Findings | None,
    judged: Sequence[Verdict],
    inspection: Inspection,
    out: Path,
) -> Section:
    words = ANALYSES[analysis]
    return Section(
        anchor=analysis,
        title=words.title,
        question=words.question,
        method=words.method,
        source=words.source,
        look_for=words.look_for,
        random_weights=words.random_weights,
        command=_command(analysis, inspection.config),
        picture=out / f"{analysis}.png",
        panels=[Panel(one.name, one.findings.header, one.findings.rows, one.findings.notes) for one in found],
        control=None if beside is None else out / CONTROL_FOLDER / f"{analysis}.png",
        claims=[_claim(verdict) for verdict in judged],
    )


def _claim(verdict: Verdict) -> Claim:
    return Claim(verdict.analysis, verdict.claim, verdict.holds, verdict.numbers)


def _command(analysis: str, config: InspectConfig) -> str:
    """Return the command that repeats one analysis of ``all``."""
    words = ["vitctl", "inspect", analysis, *([config.run] if config.run is not None else [])]
    are_pretrained = all(weights == "pretrained" for _, weights in config.models_with_weights)
    for model, weights in config.models_with_weights:
        words += ["--model", model, *([] if are_pretrained else ["--weights", weights])]
    for name, value in config.as_json(without=_NOT_OF_ONE).items():
        if value != described(InspectConfig)[name].default and config.takes(name, analysis):
            words += [option_of(name), str(num_images_of(analysis, config) if name == "num_images" else value)]
    return shlex.join(words)


# --- saying what is done -----------------------------------------------------------------------------------


def _settings(inspection: Inspection, device_reason: str, out: Path) -> list[Setting]:
    config = inspection.config
    settings = []
    for one in inspection.loaded:
        geometry = one.subject.geometry
        size = f"{format_size(geometry.image_size)} px"
        grid = "" if geometry.grid is None else f", {geometry.grid[0]}x{geometry.grid[1]} patches"
        count = geometry.num_prefix_tokens
        prefix = f" and {count} prefix token{'s' * (count > 1)}" if count and grid else ""
        settings.append(Setting("model", one.choice.name, f"{size}{grid}{prefix}"))
    if _shows_images(config.analysis):
        images = inspection.images
        shown = f"{len(images.split):,} of {images.spec}" if config.image is None else images.spec
        settings.append(Setting("images", shown, images.reason))
    elif config.analysis == "probe":
        spec = next(iter(_data_of(config)), DIGITS)
        tests = f"{num_images_of('probe', config)} test images at most"
        settings.append(Setting("images", f"{spec}: {config.shots} a class, {config.seeds} times; {tests}"))
    settings.append(Setting("device", str(inspection.device), device_reason))
    settings.append(Setting("files", str(out), "given" if config.out else "the default"))
    return settings
