"""A graph as a ``.pt2`` file, which torch.export opens where there is no timm.

Letters: B images, H W px.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from vitctl.exporting.graph import quiet_exporters
from vitctl.primitives.documents import parse_document

FILE = "model.pt2"
METADATA_FILE = "vitctl.json"


def write_pt2(exported: ExportedProgram, path: Path, *, metadata: dict[str, Any]) -> None:
    """Write ``exported`` to ``path``, ``metadata`` as the extra file ``vitctl.json`` inside.

    The example inputs, which torch would store as a pickle, are left out.
    """
    archive = io.BytesIO()  # torch's own writer ends the process where the disk is full
    for module in exported.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    kept, exported.example_inputs = exported.example_inputs, None
    try:
        with quiet_exporters():
            torch.export.save(exported, archive, extra_files={METADATA_FILE: json.dumps(metadata, ensure_ascii=False)})
    finally:
        exported.example_inputs = kept
    path.write_bytes(archive.getbuffer())


def read_pt2(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return the module and the metadata in ``path``; the module takes and gives what its ``GraphModel`` did.

    Raises:
        Exception: Whatever torch makes of a damaged file.
    """
    extra = {METADATA_FILE: ""}
    with quiet_exporters():
        module = torch.export.load(str(path), extra_files=extra).module()
    return module, parse_document(extra[METADATA_FILE], dict[str, Any])
