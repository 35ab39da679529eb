"""Let ``import torchvision`` work beside a CPU-only torch.

timm and transformers import torchvision. Its wheel from PyPI is built for CUDA, so beside a CPU build of
torch its compiled extension does not load, and the import dies with "operator torchvision::nms does not
exist" while it registers shape functions for two operators. vitctl uses neither. When, and only when, the
extension cannot be loaded, this module declares the two schemas, after which the import succeeds;
*calling* one of them still fails, as it should.

Call ``declare_missing_operators`` before the first import of timm, torchvision or transformers; the
packages ``vitctl.models`` and ``vitctl.data`` do so.
"""

import importlib.machinery
import importlib.util
import warnings
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_declared: list[torch.library.Library] = []  # a Library that is collected takes its schemas with it


def extension_loads(folder: Path) -> bool:
    """Return whether torchvision's compiled operators in ``folder`` load into this torch."""
    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    spec = importlib.machinery.FileFinder(str(folder), loader).find_spec("_C")
    if spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except (ImportError, OSError):
        return False
    return True


def declare_missing_operators() -> bool:
    """Declare the operator schemas that torchvision's import needs, if its extension does not load.

    Safe to call again; does nothing when torchvision is not installed or its extension loads.

    Returns:
        True when the schemas are declared by us (now or by an earlier call).
    """
    if _declared:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    if extension_loads(Path(spec.submodule_search_locations[0])):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    # The image extension (JPEG on the GPU) is missing for the same reason; vitctl reads with Pillow.
    warnings.filterwarnings("ignore", message="Failed to load image Python extension", category=UserWarning)
    return True
