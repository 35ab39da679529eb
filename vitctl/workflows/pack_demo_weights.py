"""``python -m vitctl.workflows.pack_demo_weights RUN``: make a run the embedded demo model.

The last step of ``make demo-weights``. Writes the run's ``best/`` in half precision over
``vitctl/assets/demo``; the card beside the weights is written by hand.
"""

import shutil
import sys
from pathlib import Path

import torch

from vitctl.models.named import DEMO_FOLDER
from vitctl.models.prepared import open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.files import whole_folder

CARD = "README.md"


def pack(run: Path, folder: Path = DEMO_FOLDER) -> None:
    """Write the weights of ``run`` to ``folder`` as fp16, keeping the card that stands there."""
    opened = open_model(str(run))
    with whole_folder(folder) as partial:
        save_timm_folder(
            opened.model,
            partial / "weights",
            class_names=opened.class_names,
            preprocessing=opened.preprocessing,
            base_model="none",
            base_licence=None,
            licence="mit",
            dtype=torch.float16,
        )
        for path in (partial / "weights").iterdir():
            path.rename(partial / path.name)
        (partial / "weights").rmdir()
        if (folder / CARD).is_file():
            shutil.copy2(folder / CARD, partial / CARD)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m vitctl.workflows.pack_demo_weights RUN")
    pack(Path(sys.argv[1]))
