"""What the tests of the commands share: how bad input is refused, and tiny models of several kinds, made once."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _own_datasets_cache(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ``datasets``, which reads its cache's place when it is imported, out of the real one."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", next(_homes))


def fingerprint(folder: Path) -> str:
    """Return a hash over every path and byte below ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(os.fsencode(path.relative_to(folder)) + b"\0")
        if path.is_file():
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


@pytest.fixture(scope="session")
def unchanged() -> Callable[..., AbstractContextManager[None]]:
    """Return ``unchanged(*folders)``: a ``with`` block, after which every path and byte in them must be as before."""

    @contextlib.contextmanager
    def hold(*folders: Path) -> Iterator[None]:
        before = [fingerprint(folder) for folder in folders]
        yield
        assert [fingerprint(folder) for folder in folders] == before

    return hold


@pytest.fixture
def refused(
    run_cli: Callable[..., Any],
    unchanged: Callable[..., AbstractContextManager[None]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., None]:
    """Return ``refused(line, exit_code, words, *folders)``: the command must end in one sentence with all ``words``.

    No traceback, no result, no library that speaks beside us, nothing written; ``tmp_path`` and ``folders`` as before.
    """

    def check(line: Iterable[object], exit_code: int, words: Iterable[str], *folders: Path) -> None:
        with unchanged(tmp_path, *folders):
            result = run_cli(*line)
        said = " ".join(result.stderr.split())
        assert (result.exit_code, result.stdout) == (exit_code, ""), said
        starts = [one for one in result.stderr.splitlines() if one.startswith(("error: ", "Error: "))]  # E: by Typer
        assert len(starts) == 1, said
        sentence = said.partition(" ".join(starts[0].split()))
        for word in words:
            assert word in sentence[1] + sentence[2], said
        assert "Traceback" not in said
        assert caplog.text == ""
        assert list(Path.cwd().iterdir()) == []

    return check


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """timm folders with random weights: ``vit`` (class token, attention that is far from even), ``gap`` (no class
    token), ``rope``, ``swin``, all 16 px, and ``cnn``, 32 px."""
    import timm
    import torch

    from vitctl.models.timm_folder import save_timm_folder
    from vitctl.primitives.preprocessing import Preprocessing

    tiny = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    windows = {"patch_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    kinds = {
        "vit": ("vit_tiny_patch16_224", tiny | {"depth": 3}),
        "gap": ("vit_tiny_patch16_224", tiny | {"class_token": False, "global_pool": "avg"}),
        "rope": ("vit_base_patch16_rope_reg1_gap_256", tiny),
        "swin": ("swin_tiny_patch4_window7_224", {"img_size": 16} | windows),
        "cnn": ("test_resnet", {}),
    }
    folder = tmp_path_factory.mktemp("tiny_models")
    for name, (architecture, changes) in kinds.items():
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = timm.create_model(architecture, num_classes=3, **changes)
            if name == "vit":
                for block in model.blocks:
                    block.attn.qkv.weight.mul_(40)
                model.pos_embed.mul_(20)
        side = changes.get("img_size", 32)
        save_timm_folder(
            model,
            folder / name,
            class_names=["red", "green", "blue"],
            preprocessing=Preprocessing((side, side), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3),
            base_model="random",
            base_licence=None,
        )
    return {name: folder / name for name in kinds}


@pytest.fixture
def no_findings_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """``vitctl inspect`` writes one grey pixel for every picture: drawing takes longer than all the rest."""
    from PIL import Image

    from vitctl.workflows import inspect_model

    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")

    def write(_analysis: str, _models: Sequence[object], path: Path) -> None:
        path.write_bytes(pixel.getvalue())

    monkeypatch.setattr(inspect_model, "draw_findings", write)
