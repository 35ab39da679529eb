"""What a program calls: ``import vitctl; vitctl.finetune(...)``. Importing it imports no torch.

Every command is a function: its settings are the command's options with their defaults, its result is a dataclass whose
JSON is the ``--json`` document. Signatures and docstrings are made from the settings, so that ``help(vitctl.finetune)``
is ``vitctl finetune --help``. Every function is silent unless ``verbose`` is set, but for warnings, which are Python's.
Errors are ``VitctlError``s, with the sentences that the commands show.
"""

import inspect as signatures
import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.inspecting import catalogue
from vitctl.settings.compare import CompareConfig
from vitctl.settings.data import DataConfig
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.export import ExportConfig
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.log import LogConfig
from vitctl.settings.option import Described, Settings, described
from vitctl.settings.predict import PredictConfig
from vitctl.settings.reading import settings_from_python, values_from_python
from vitctl.settings.runs import RunsConfig
from vitctl.settings.sweep import SweepConfig
from vitctl.settings.words import PRETRAINED

if TYPE_CHECKING:
    from vitctl.classifier import Classifier
    from vitctl.results.compare import CompareResult
    from vitctl.results.data import DataReport
    from vitctl.results.evaluate import EvaluateResult
    from vitctl.results.export import ExportResult
    from vitctl.results.fewshot_eval import FewshotResult
    from vitctl.results.finetune import DryRunResult, FinetuneResult
    from vitctl.results.inspect_model import InspectAllResult, InspectResult
    from vitctl.results.log import LogResult
    from vitctl.results.predict import PredictResult
    from vitctl.results.runs import RunsResult
    from vitctl.results.sweep import SweepDryRunResult, SweepResult

PathLike = str | os.PathLike[str]
_PACKAGE = str(Path(__file__).parent) + os.sep
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


def _takes(settings: type[Settings] | Mapping[str, Described]) -> Callable[[_FunctionT], _FunctionT]:
    """Show the settings in the signature and the docstring of a function that passes ``**values`` on to them."""

    def show(function: _FunctionT) -> _FunctionT:
        own = [
            one
            for one in signatures.signature(function).parameters.values()
            if one.kind is not signatures.Parameter.VAR_KEYWORD
        ]
        names = {one.name for one in own}
        every = settings if isinstance(settings, Mapping) else described(settings)
        rest = [one for one in every.values() if one.name not in names and one.opt is not None]
        parameters = [
            signatures.Parameter(
                one.name,
                signatures.Parameter.KEYWORD_ONLY,
                default=signatures.Parameter.empty if one.default is MISSING else one.default,
                annotation=one.kind,
            )
            for one in rest
        ]
        function.__signature__ = signatures.signature(function).replace(parameters=[*own, *parameters])  # type: ignore[attr-defined]
        rows = [
            textwrap.fill(f"{one.name}: {one.opt.help}", width=100, initial_indent=" " * 8, subsequent_indent=" " * 12)
            for one in rest
            if one.opt is not None
        ]
        function.__doc__ = "\n".join([(function.__doc__ or "").rstrip(), "", "    Settings:", *rows, "    "])
        return function

    return show


def _run(workflow: str, config: Settings, *, verbose: bool) -> Any:
    if getattr(config, "num_processes", None) not in (None, 1):
        raise SettingError(
            "num_processes is for the command line, which starts the processes: vitctl ... --num-processes N. A script "
            "that calls vitctl works in several processes when torchrun starts it; leave num_processes out.",
            field="num_processes",
        )
    talk = conversation(verbose=verbose)
    module = import_module(f"vitctl.workflows.{workflow}")
    from vitctl.primitives.devices import enough_memory_on_cpu  # here, not above: they import torch
    from vitctl.primitives.process_group import lost_process_is_a_sentence

    with lost_process_is_a_sentence(), enough_memory_on_cpu(getattr(config, "batch_size", None)):
        return module.run(config, talk)


@overload
def finetune(
    *, config: PathLike | None = None, dry_run: Literal[False] = False, verbose: bool = False, **settings: Any
) -> "FinetuneResult": ...


@overload
def finetune(
    *, config: PathLike | None = None, dry_run: Literal[True], verbose: bool = False, **settings: Any
) -> "DryRunResult": ...


@_takes(FinetuneConfig)
def finetune(
    *, config: PathLike | None = None, dry_run: bool = False, verbose: bool = False, **settings: Any
) -> "FinetuneResult | DryRunResult":
    """Fine-tune a pretrained ViT (or CNN) on images, at a higher resolution if you like: ``vitctl finetune``.

    Writes the run folder that the command writes, and returns its summary.

    Args:
        config: The ``config.json`` of an earlier run; settings given here come first.
        dry_run: Train and write nothing; return settings, cost and time.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: A setting, the images, the weights or the device cannot be used; nothing was written.
        InterruptedRun: Ctrl-C; what was trained is saved, and ``resume=RUN`` goes on.
    """
    where, given = "vitctl.finetune", {**settings, **({"dry_run": True} if dry_run else {})}
    if config is None:
        settled = settings_from_python(FinetuneConfig, given, where=where)
    else:
        settled = merge(config_from_file(Path(config)), values_from_python(FinetuneConfig, given, where=where))
    return cast("FinetuneResult | DryRunResult", _run("finetune", settled, verbose=verbose))


@_takes(EvaluateConfig)
def evaluate(run: PathLike | None = None, *, verbose: bool = False, **settings: Any) -> "EvaluateResult":
    """Say how good a classifier is: accuracy with its interval, calibration, every class: ``vitctl evaluate``.

    Args:
        run: Run folder or timm folder; None with ``model=``.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: The model or the images cannot be used; nothing was written.
    """
    given = {"run": run, **settings} if run is not None else settings
    settled = settings_from_python(EvaluateConfig, given, where="vitctl.evaluate")
    return cast("EvaluateResult", _run("evaluate", settled, verbose=verbose))


@_takes(FewshotEvalConfig)
def fewshot_eval(*, verbose: bool = False, **settings: Any) -> "FewshotResult":
    """Say how good frozen features are, by linear few-shot evaluation: ``vitctl fewshot-eval``.

    Args:
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: A setting, the images or a model cannot be used; no result was written.
    """
    config = settings_from_python(FewshotEvalConfig, settings, where="vitctl.fewshot_eval")
    return cast("FewshotResult", _run("fewshot_eval", config, verbose=verbose))


@_takes(catalogue.every_setting())
def inspect(
    analysis: str, run: PathLike | None = None, *, verbose: bool = False, **settings: Any
) -> "InspectResult | InspectAllResult":
    """Show how a ViT sees: ``vitctl inspect``.

    Args:
        analysis: Its name, or ``all``, which returns an ``InspectAllResult``.
        run: Run folder or timm folder; None with ``model=``.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name; an analysis takes some of them (``vitctl inspect ANALYSIS --help``).

    Raises:
        VitctlError: A model, a setting or the images cannot be used; of the analysis nothing was written.
    """
    given = {**({} if run is None else {"run": run}), **settings}
    settled = catalogue.settings_from_python(analysis, given, where="vitctl.inspect")
    return cast("InspectResult | InspectAllResult", _run("inspect_model", settled, verbose=verbose))


@_takes(ExportConfig)
def export(run: PathLike | None = None, *, verbose: bool = False, **settings: Any) -> "ExportResult":
    """Write a model in formats that other programs open, and prove that each behaves like it: ``vitctl export``.

    Args:
        run: Run folder, its best/ or last/, or a timm folder; None with ``model=``.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: The model, the images or the output cannot be used, or an export does not behave like its source;
            nothing was written.
    """
    given = {"run": run, **settings} if run is not None else settings
    settled = settings_from_python(ExportConfig, given, where="vitctl.export")
    return cast("ExportResult", _run("export", settled, verbose=verbose))


@_takes(PredictConfig)
def predict(
    run: PathLike | None = None, images: PathLike | Iterable[PathLike] = (), *, verbose: bool = False, **settings: Any
) -> "PredictResult":
    """Say what image files show: the most probable classes of each, in the order given: ``vitctl predict``.

    ``vitctl.load(run).predict(images)`` also takes Pillow images and arrays, and loads the model once.

    Args:
        run: Run folder or timm folder; None with ``model=``.
        images: One path or many; folders are walked. Files that cannot be read are in ``skipped`` of the result.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: The model cannot be used, or no image is given.
    """
    given = {**({} if run is None else {"run": run}), "images": images, **settings}
    settled = settings_from_python(PredictConfig, given, where="vitctl.predict")
    return cast("PredictResult", _run("predict", settled, verbose=verbose))


@_takes(DataConfig)
def data_report(data: PathLike, *, verbose: bool = False, **settings: Any) -> "DataReport":
    """Say what images there are and what is wrong with them, before training: ``vitctl data``.

    Args:
        data: Images: anything that ``vitctl data`` takes.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: The data cannot be opened, or no image decodes; nothing was written.
    """
    config = settings_from_python(DataConfig, {"data": data, **settings}, where="vitctl.data_report")
    return cast("DataReport", _run("data", config, verbose=verbose))


@_takes(SweepConfig)
def sweep(
    *, grid: Mapping[str, Any] | Iterable[str] | None = None, verbose: bool = False, **settings: Any
) -> "SweepResult | SweepDryRunResult":
    """Train every combination of settings, with several seeds, and say what differs: ``vitctl sweep``.

    Args:
        grid: Values by option or SECTION.KEY of the recipe, ``{"lr": [1e-4, 3e-4]}``; or as the command line has them.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: A setting, the images or a run cannot be used.
        InterruptedRun: Ctrl-C; the same call goes on.
    """
    from vitctl.settings.grid import grid_texts  # here, not above: few need it
    from vitctl.workflows.sweep import run

    texts = {} if grid is None else {"grid": grid_texts(grid)}
    settled = settings_from_python(SweepConfig, {**texts, **settings}, where="vitctl.sweep")
    return run(settled, conversation(verbose=verbose))


@_takes(CompareConfig)
def compare(runs: Iterable[PathLike], *, verbose: bool = False, **settings: Any) -> "CompareResult":
    """Compare runs on the same images, pair by pair, with intervals: ``vitctl compare``.

    Args:
        runs: Run folders; those that differ in the seed alone are one row.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: A run cannot be used, or their images are not the same; nothing was written.
    """
    settled = settings_from_python(CompareConfig, {"runs": runs, **settings}, where="vitctl.compare")
    return cast("CompareResult", _run("compare", settled, verbose=verbose))


@_takes(RunsConfig)
def runs(folder: PathLike | None = None, *, verbose: bool = False, **settings: Any) -> "RunsResult":
    """List the runs below a folder: data, model, score with its interval, state: ``vitctl runs``.

    Args:
        folder: Where to look; None is ``runs`` and ``sweeps`` in the working folder.
        verbose: Say on stderr what is done.
        settings: Those below, by name.

    Raises:
        VitctlError: There is no such folder.
    """
    from vitctl.workflows.runs import run  # which imports no torch

    settled = settings_from_python(RunsConfig, {"folder": folder, **settings}, where="vitctl.runs")
    return run(settled, conversation(verbose=verbose))


@_takes(LogConfig)
def log(run: PathLike, *, verbose: bool = False, **settings: Any) -> "LogResult":
    """Write a run for a tracker, TensorBoard or Weights & Biases, from its own files: ``vitctl log``.

    Args:
        run: Run folder: finished, stopped or still running.
        verbose: Say on stderr what is done, and show progress.
        settings: Those below, by name.

    Raises:
        VitctlError: There is no such run, its files or the output cannot be used, or the tracker is not installed.
    """
    settled = settings_from_python(LogConfig, {"run": run, **settings}, where="vitctl.log")
    return cast("LogResult", _run("log", settled, verbose=verbose))


def load(
    run_or_model: PathLike,
    *,
    weights: PathLike = PRETRAINED,
    model_args: Mapping[str, Any] | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    device: str = "auto",
    verbose: bool = False,
) -> "Classifier":
    """Return a trained model, ready to be shown images.

    Args:
        run_or_model: A run folder (its ``best/``, or with a warning the ``last/`` of a run that was stopped), its
            ``best/`` or ``last/``, a folder of timm or transformers, ``demo``, a timm name, ``hf-hub:OWNER/NAME``.
        weights: ``pretrained``, ``none`` for random ones, or a file (``vitctl guide weights`` has which).
        model_args: Arguments of timm's class, instead of those that the name stands for: ``{"global_pool": "avg"}``.
        image_size: px: ``384``, ``"256x320"`` or ``(256, 320)``, height first; None is the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        verbose: Say on stderr what is done, and show progress.

    Raises:
        ModelError: There is no such model; its weights are missing, do not fit or cannot be fetched; or its size
            cannot change.
        SettingError: It cannot take the image size, or the device has another name.
        UnavailableError: The device is not here.

    Example:
        >>> import vitctl
        >>> classifier = vitctl.load("demo", device="cpu")
        >>> classifier.image_size
        (32, 32)
        >>> classifier.predict_proba("shirt.png").shape  # doctest: +SKIP
        (1, 10)
    """
    talk = conversation(verbose=verbose)
    from vitctl.classifier import open_classifier
    from vitctl.primitives.devices import enough_memory_on_cpu
    from vitctl.primitives.image_sizes import image_size_of

    with enough_memory_on_cpu(None):
        return open_classifier(
            os.fspath(run_or_model),
            weights=os.fspath(weights),
            model_args=model_args,
            image_size=None if image_size is None else image_size_of(image_size),
            device=device,
            conversation=talk,
        )


def conversation(*, verbose: bool) -> Conversation:
    """Return how a function of the library talks: on stderr as the commands do, or by Python's warnings alone."""
    if not verbose:
        return _Warnings()
    from vitctl.cli.screen import Screen

    return Screen()


class _Warnings(Conversation):
    """Silent, but for warnings: they are Python's, of the line outside of this package that led to them."""

    def warn(self, text: str) -> None:
        """Issue a ``UserWarning``."""
        level, frame = 1, signatures.currentframe()
        while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            level, frame = level + 1, frame.f_back
        warnings.warn(text, UserWarning, stacklevel=level)
