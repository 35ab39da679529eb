"""The last step of ``make demo-weights``: a run becomes the embedded folder, in half precision, card kept."""

from pathlib import Path

from safetensors.torch import load_file

from vitctl.models.build import load_model
from vitctl.workflows.pack_demo_weights import pack


def test_pack(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "README.md").write_text("the card")
    pack(tiny_model_folder, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    packed, original = load_file(folder / "model.safetensors"), load_file(tiny_model_folder / "model.safetensors")
    assert all(bool((packed[key] == original[key].half()).all()) for key in original)
    loaded = load_model(str(folder))
    assert loaded.licence == "mit"
    assert loaded.class_names == ("red", "green", "blue")
