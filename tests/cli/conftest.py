"""Tiny models of several kinds, made once, for the tests of the commands that read them."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ``datasets``, which reads its cache's place when it is imported, out of the real one."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


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
