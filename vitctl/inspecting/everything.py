"""Every analysis that fits the models, the judged ones of random weights too, and what that says of the papers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitctl.errors import DataError, ModelError, SettingError, VitctlError
from vitctl.inspecting.catalogue import Analysis, catalogue
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.inspection import Inspection, Named, run_analysis, run_what_fits
from vitctl.results.inspect_model import InspectResult, SkippedAnalysis, Verdict
from vitctl.settings.inspect_model import InspectConfig

Keep = Callable[[Analysis, InspectConfig, Sequence[Named], Inspection], InspectResult]
"""Writes the files of an analysis, and returns what it found."""


@dataclass(frozen=True)
class Outcome:
    """What became of one analysis.

    Attributes:
        analysis: Which.
        options: Its settings.
        found: What it found, in every model that it takes.
        control: What it found in random weights; None where it was not made of them.
        verdicts: What is claimed of it.
        result: What the command returns of it.
    """

    analysis: Analysis
    options: InspectConfig
    found: Sequence[Named]
    control: Findings | None
    verdicts: Sequence[Verdict]
    result: InspectResult


def inspect_everything(
    inspection: Inspection, keep: Keep, keep_control: Keep
) -> tuple[list[Outcome], list[SkippedAnalysis]]:
    """Run every analysis that fits the models, those that are judged also with random weights of the first of them.

    Args:
        inspection: Models and images.
        keep: Writes what was found in the models.
        keep_control: Writes what was found in random weights.

    Returns:
        What became of each analysis, and what was left out.

    Raises:
        ModelError: No analysis takes any of the models.
    """
    conversation, first = inspection.conversation, inspection.models[0]
    control = inspection.of_models([first.with_random_weights])
    outcomes: list[Outcome] = []
    skipped: list[SkippedAnalysis] = []
    if first.is_random:
        conversation.line(f"{first.name}: nothing is judged, and there is no control beside it.")
    with conversation.progress("inspecting", len(catalogue()), "analyses") as bar:
        for name, analysis in catalogue().items():
            try:
                options = analysis.options_for(inspection.config)
                found, refused = run_what_fits(analysis, options, inspection)
            except (ModelError, SettingError, DataError) as error:
                conversation.line(f"{name}: left out. {error}")
                skipped.append(SkippedAnalysis(name, None, str(error)))
                bar.advance(what=name)
                continue
            for one, reason in refused:
                conversation.line(f"{name}: without {one.choice.name}. {reason}")
                skipped.append(SkippedAnalysis(name, one.choice.name, reason))
            inspection.warn(found)
            result = keep(analysis, options, found, inspection)
            beside, verdicts = None, list[Verdict]()
            if analysis.words.is_controlled and found[0].models[0].choice == first and not first.is_random:
                beside = _control(analysis, options, control, keep_control)
            if not any(one.choice.is_random for one in found[0].models):
                verdicts = analysis.verdicts(found[0].findings, beside)
            outcomes.append(Outcome(analysis, options, found, beside, verdicts, result))
            conversation.line(f"{name}: done")
            bar.advance(what=name)
    if not outcomes:
        raise ModelError("No analysis takes this model:", *(f"  {one.analysis}: {one.reason}" for one in skipped))
    return outcomes, skipped


def _control(analysis: Analysis, options: InspectConfig, control: Inspection, keep: Keep) -> Findings | None:
    """Return what ``analysis`` finds in random weights, written beside; None where it cannot be made of them."""
    try:
        found = run_analysis(analysis, options, control)
    except VitctlError as error:
        control.conversation.line(f"{analysis.name}: without its control of random weights. {error}")
        return None
    keep(analysis, options, found, control)
    return found[0].findings
