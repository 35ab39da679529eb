"""``vitctl inspect``: how a ViT sees, one analysis at a time or all of them with a report.

Every analysis leaves ``NAME.npz`` (arrays), ``NAME.json`` (settings, scalars, what each array is) and ``NAME.png``.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.data.run_images import images_of_run, specs_of_run
from vitctl.inspecting.catalogue import Analysis, catalogue, settings_as_json
from vitctl.inspecting.everything import Outcome, inspect_everything
from vitctl.inspecting.inspection import Inspection, Named, run_analysis
from vitctl.inspecting.outcome import command_of, result_of, write_files
from vitctl.inspecting.subjects import ShownImages, choose_images, choose_models
from vitctl.models.run_folders import run_of
from vitctl.primitives.devices import enough_memory, resolve_device, resolve_num_threads
from vitctl.primitives.files import user_path
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.interrupts import termination_as_error
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.reporting.inspect_figures import draw_findings
from vitctl.reporting.inspect_report import Claim, Panel, Section, Skipped, write_report
from vitctl.results.inspect_model import InspectAllResult, InspectResult, Verdict
from vitctl.settings.inspect_model import InspectAllConfig, InspectConfig, Minibatch, OnImages
from vitctl.settings.words import DIGITS

DEFAULT_OUT = "inspect"
REPORT = "report.html"
CONTROL_FOLDER = "random-weights"
_NOT_OF_RESULTS = ("batch_size", "num_workers", "num_threads", "device", "out")


def run(config: InspectConfig, conversation: Conversation) -> InspectResult | InspectAllResult:
    """Inspect, write arrays, figures (and the report), and return what was found.

    Raises:
        VitctlError: A model, an option or the images cannot be used; of the analysis nothing was written.
    """
    run_folder = run_of(config.run)
    out = _decide_out(config, run_folder)
    check_writable(out)
    device, device_reason = resolve_device(config.device)
    resolve_num_threads(config.num_threads)
    inspection = Inspection(
        config,
        choose_models(config),
        device=device,
        conversation=conversation,
        open_images=partial(_open_images, run_folder, conversation),
    )
    batch_size = config.batch_size if isinstance(config, OnImages) else None
    memory = enough_memory(device, batch_size, *(["--minibatch"] if isinstance(config, Minibatch) else []))
    with termination_as_error(f"terminated; what is whole lies in {out}."), memory:
        _open(inspection, run_folder, out)
        conversation.header("vitctl inspect", _settings(inspection, run_folder, out, device_reason))
        if isinstance(config, InspectAllConfig):
            return _inspect_all(inspection, run_folder, out)
        analysis = catalogue()[config.analysis]
        found = run_analysis(analysis, config, inspection)
        inspection.warn(found)
        return _write(analysis, config, found, inspection, out)


# --- models and images -------------------------------------------------------------------------------------


def _decide_out(config: InspectConfig, run: Path | None) -> Path:
    if config.out is not None:
        return user_path(config.out).absolute()
    return run / DEFAULT_OUT if run is not None else Path(DEFAULT_OUT).absolute()


def _open(inspection: Inspection, run: Path | None, out: Path) -> None:
    """Load the models and look at the images before anything slow begins."""
    sizes = [one.subject.geometry.image_size for one in inspection.loaded]
    check_elsewhere(out, [str(user_path(spec).absolute()) for spec in _specs(inspection.config, run)])
    if inspection.image_size is None and len(set(sizes)) > 1:
        listed = ", ".join(map(format_size, sizes))
        inspection.conversation.line(f"The models look at images of their own sizes: {listed} px.")
    if inspection.shows_images:
        _ = inspection.images


def _specs(config: InspectConfig, run: Path | None) -> list[str]:
    """Return the data specs that are read, or that the run was made with."""
    own = [config.data] if isinstance(config, OnImages) and config.data is not None else []
    return [*own, *(specs_of_run(run) if run is not None else [])]


def _open_images(run: Path | None, conversation: Conversation, config: OnImages, most: int) -> ShownImages:
    if run is None or config.data is not None or config.files is not None:
        return choose_images(config, most, conversation)
    found = images_of_run(run, None, advice="Name others with --data SPEC.")
    return choose_images(config, most, conversation, of_run=(found.split, found.source, found.reason))


def _settings(inspection: Inspection, run: Path | None, out: Path, device_reason: str = "") -> list[Setting]:
    config = inspection.config
    return [
        *inspection.models_in_words,
        *inspection.images_in_words(next(iter(_specs(config, run)), DIGITS)),
        Setting("device", str(inspection.device), device_reason),
        Setting("files", str(out), "given" if config.out else "the default"),
    ]


# --- files -------------------------------------------------------------------------------------------------


def _write(
    analysis: Analysis, options: InspectConfig, found: Sequence[Named], inspection: Inspection, out: Path
) -> InspectResult:
    """Write the three files of an analysis and return what the JSON file says."""
    settings = {"vitctl": __version__} | settings_as_json(inspection.config, without=_NOT_OF_RESULTS)
    result = result_of(analysis, options, found, inspection, settings=settings, out=str(out))
    write_files(result, found, out, draw=draw_findings)
    return result


# --- all of them -------------------------------------------------------------------------------------------


def _inspect_all(inspection: Inspection, run: Path | None, out: Path) -> InspectAllResult:
    """Run everything that fits the models and write the report."""
    keep, keep_control = (partial(_write, out=folder) for folder in (out, out / CONTROL_FOLDER))
    outcomes, skipped = inspect_everything(inspection, keep, keep_control)
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    names = " and ".join(model.name for model in inspection.models)
    facts = [(one.name, one.value, one.reason) for one in _settings(inspection, run, out)]
    with writing(out / REPORT):
        write_report(
            out / REPORT,
            title=f"How {names} see{'s' * (len(inspection.models) == 1)}",
            facts=[(name, f"{value} ({reason})" if reason else value) for name, value, reason in facts],
            sections=[_section(outcome, out) for outcome in outcomes],
            verdicts=_claims(verdicts),
            skipped=[Skipped(f"{one.analysis}{f' of {one.model}' * bool(one.model)}", one.reason) for one in skipped],
        )
    return InspectAllResult(
        analyses={outcome.analysis.name: outcome.result for outcome in outcomes},
        verdicts=tuple(verdicts),
        skipped=tuple(skipped),
        report=str(out / REPORT),
        out=str(out),
    )


def _section(outcome: Outcome, out: Path) -> Section:
    name, words = outcome.analysis.name, outcome.analysis.words
    said = ("title", "question", "method", "source", "look_for", "random_weights")
    return Section(
        anchor=name,
        **{field: getattr(words, field) for field in said},
        command=command_of(outcome.options),
        picture=out / f"{name}.png",
        panels=[Panel(one.name, one.findings.header, one.findings.rows, one.findings.notes) for one in outcome.found],
        control=None if outcome.control is None else out / CONTROL_FOLDER / f"{name}.png",
        claims=_claims(outcome.verdicts),
    )


def _claims(verdicts: Sequence[Verdict]) -> list[Claim]:
    return [Claim(one.analysis, one.claim, one.verdict, one.numbers) for one in verdicts]
