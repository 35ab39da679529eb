"""What each command returns, one file per command: dataclasses whose JSON is the ``--json`` document.

Plain Python: importing it imports nothing heavy. The parts of a result are beside it in its file.
"""

from vitctl.results.compare import CompareResult
from vitctl.results.data import DataReport
from vitctl.results.evaluate import EvaluateResult
from vitctl.results.export import ExportResult
from vitctl.results.fewshot_eval import FewshotResult
from vitctl.results.finetune import DryRunResult, FinetuneResult
from vitctl.results.inspect_model import InspectAllResult, InspectResult
from vitctl.results.log import LogResult
from vitctl.results.models import ModelsResult
from vitctl.results.predict import PredictResult
from vitctl.results.recipes import RecipeResult, RecipesResult
from vitctl.results.result import JsonObject, JsonValue, Result
from vitctl.results.runs import RunsResult
from vitctl.results.sweep import SweepDryRunResult, SweepResult

__all__ = [
    "CompareResult",
    "DataReport",
    "DryRunResult",
    "EvaluateResult",
    "ExportResult",
    "FewshotResult",
    "FinetuneResult",
    "InspectAllResult",
    "InspectResult",
    "JsonObject",
    "JsonValue",
    "LogResult",
    "ModelsResult",
    "PredictResult",
    "RecipeResult",
    "RecipesResult",
    "Result",
    "RunsResult",
    "SweepDryRunResult",
    "SweepResult",
]
