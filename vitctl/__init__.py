"""vitctl: a Vision Transformer that works on your images.

Fine-tunes a pretrained ViT at a higher resolution than it was pretrained at, evaluates it, shows how it sees,
predicts with it and exports it. Importing this package imports nothing heavy.

Who may import whom, top to bottom (``tests/rules/test_layers.py`` holds the table)::

    api           what a program calls; every name of this package comes from there or from below
    cli           words in, words out; the only home of Typer and rich
    workflows     one file per command; reads as a table of contents
    classifier    a trained model to show images to
    training sweeping                           building blocks of fine-tuning, of many runs
    exporting inspecting reporting              building blocks of export, of inspect, of pictures
    run_folders                                 run folders seen from outside
    evaluation                                  building blocks of evaluation; training and inspecting use them too
    models data                                            what is trained, what it is trained on
    primitives                                  arithmetic and small tools
    settings recipes guides conversation        plain Python: settings, recipe files, guides, how a workflow talks
    errors telemetry                            what can go wrong, and its exit code; what is not reported to anyone

In a program or a notebook::

    import vitctl

    result = vitctl.finetune(data="photos/", image_size=384, out="runs/photos")
    print(result.best.top1)
    classifier = vitctl.load(result.run)
    classifier.predict("cat.jpg")  # ['cat']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitctl.errors import DataError, InterruptedRun, ModelError, SettingError, UnavailableError, VitctlError
from vitctl.telemetry import switch_off as _switch_off_telemetry

# here, because whatever is imported of vitctl, this runs first; onnxruntime looks while it is imported, never again
_switch_off_telemetry()

if TYPE_CHECKING:
    from vitctl.api import (
        compare,
        data_report,
        evaluate,
        export,
        fewshot_eval,
        finetune,
        inspect,
        load,
        log,
        predict,
        runs,
        sweep,
    )
    from vitctl.classifier import Classifier
    from vitctl.results import (
        CompareResult,
        DataReport,
        DryRunResult,
        EvaluateResult,
        ExportResult,
        FewshotResult,
        FinetuneResult,
        InspectAllResult,
        InspectResult,
        LogResult,
        PredictResult,
        RunsResult,
        SweepDryRunResult,
        SweepResult,
    )

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "CompareResult",
    "DataError",
    "DataReport",
    "DryRunResult",
    "EvaluateResult",
    "ExportResult",
    "FewshotResult",
    "FinetuneResult",
    "InspectAllResult",
    "InspectResult",
    "InterruptedRun",
    "LogResult",
    "ModelError",
    "PredictResult",
    "RunsResult",
    "SettingError",
    "SweepDryRunResult",
    "SweepResult",
    "UnavailableError",
    "VitctlError",
    "__version__",
    "compare",
    "data_report",
    "evaluate",
    "export",
    "fewshot_eval",
    "finetune",
    "inspect",
    "load",
    "log",
    "predict",
    "runs",
    "sweep",
]

# where each name is, imported when it is first asked for
_HOMES = {
    "Classifier": "vitctl.classifier",
    "CompareResult": "vitctl.results",
    "DataReport": "vitctl.results",
    "DryRunResult": "vitctl.results",
    "EvaluateResult": "vitctl.results",
    "ExportResult": "vitctl.results",
    "FewshotResult": "vitctl.results",
    "FinetuneResult": "vitctl.results",
    "InspectAllResult": "vitctl.results",
    "InspectResult": "vitctl.results",
    "LogResult": "vitctl.results",
    "PredictResult": "vitctl.results",
    "RunsResult": "vitctl.results",
    "SweepDryRunResult": "vitctl.results",
    "SweepResult": "vitctl.results",
    "compare": "vitctl.api",
    "data_report": "vitctl.api",
    "evaluate": "vitctl.api",
    "export": "vitctl.api",
    "fewshot_eval": "vitctl.api",
    "finetune": "vitctl.api",
    "inspect": "vitctl.api",
    "load": "vitctl.api",
    "log": "vitctl.api",
    "predict": "vitctl.api",
    "runs": "vitctl.api",
    "sweep": "vitctl.api",
}

if not TYPE_CHECKING:  # a type checker would take every misspelt name for one that this gives

    def __getattr__(name: str) -> Any:
        """Return what ``_HOMES`` names (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
