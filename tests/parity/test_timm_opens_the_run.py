"""timm opens ``best/`` unchanged and gives ``vitctl predict``'s probabilities."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config


@pytest.mark.usefixtures("no_rendering")
@pytest.mark.parametrize("size", ["24", "16x32", "8x32"])
def test_probabilities_agree(run_cli, image_folder: Path, tiny_model_folder: Path, size: str) -> None:
    arguments = ("--data", image_folder, "--model", tiny_model_folder, "--image-size", size, "--steps", 5)
    assert run_cli("finetune", *arguments, "--lr", 0.01, "--num-workers", 0, "--out", "out").exit_code == 0
    images = sorted(image_folder.rglob("*.png"))[::5]
    document = run_cli("predict", "out", *images, "--json").json

    model = timm.create_model("local-dir:out/best", pretrained=True).eval()
    config = resolve_data_config({}, model=model)
    transform = create_transform(**config, is_training=False)
    height, _, width = size.partition("x")
    assert config["input_size"] == (3, int(height), int(width or height))
    names = model.pretrained_cfg["label_names"]
    for path, entry in zip(images, document["predictions"], strict=True):
        with torch.no_grad():
            shares = model(transform(Image.open(path)).unsqueeze(0)).softmax(dim=1)[0]
        for top in entry["top"]:
            assert top["probability"] == pytest.approx(float(shares[names.index(top["class"])]), abs=1e-5)
