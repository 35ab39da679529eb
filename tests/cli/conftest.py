"""A finished run, made once, for the tests of the commands that read one."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ``datasets``, which reads its cache's place when it is imported, out of the real one."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A run of 60 steps on red, green and blue images, with a test split; square, 24 px."""
    import numpy as np
    from PIL import Image

    from vitctl.config import FinetuneConfig
    from vitctl.conversation import Conversation
    from vitctl.workflows import finetune

    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("red", "green", "blue")):
            (folder / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
                pixels[..., label] += np.uint8(150)
                Image.fromarray(pixels).save(folder / "data" / split / name / f"{index}.png")
    config = FinetuneConfig(
        data=str(folder / "data"),
        model=str(tiny_model_folder),
        image_size="24",
        steps=60,
        lr=3e-3,
        head="zero",
        num_workers=0,
        out=str(folder / "run"),
    )
    finetune.run(config, Conversation())
    return folder / "run"
