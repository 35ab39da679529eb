"""Which files are read, which are left out and counted, and what is said of them; HEIC photos."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitctl
from vitctl.data import endings, heif
from vitctl.data.endings import (
    EXTENSIONS,
    HEIF_EXTENSIONS,
    image_endings,
    left_out_sentence,
    left_out_settings,
    part_images,
    together,
)
from vitctl.data.files import list_images
from vitctl.data.images import open_image, read_rgb, reason_of
from vitctl.data.sources import open_source
from vitctl.data.training_data import open_training_sources
from vitctl.errors import DataError

Write = Callable[..., Path]
INSTALL = "pip install 'vitctl[heic]'"


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (endings, heif):
        monkeypatch.setattr(module, "has_heif", lambda: False)


@pytest.fixture
def without_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "has_avif", lambda: False)


def test_every_ending_that_pillow_knows_is_read_or_left_out_or_no_picture() -> None:
    """A second opinion on the lists: what Pillow itself calls an ending of images."""
    known = {ending.lower() for ending in Image.registered_extensions()}
    passed_over = {
        ".avifs", ".bufr", ".bw", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".grib", ".h5", ".hdf", ".heics", ".heifs",
        ".icb", ".iim", ".im", ".msp", ".palm", ".pcd", ".pdf", ".ps", ".pxr", ".rgb", ".rgba", ".vda", ".vst",
    }  # fmt: skip
    images, left_out = part_images(f"a{ending}" for ending in known)
    assert {f"a{ending}" for ending in known - passed_over - set(left_out)} == set(images)


def test_no_ending_is_both_and_none_is_an_index_of_ours() -> None:
    assert len({*EXTENSIONS, *HEIF_EXTENSIONS, *endings._OTHER_KINDS}) == sum(
        map(len, (EXTENSIONS, HEIF_EXTENSIONS, endings._OTHER_KINDS))
    )
    assert list(endings._OTHER_KINDS) == sorted(endings._OTHER_KINDS)
    for name in ("notes.txt", "labels.csv", "1.json", "Thumbs.db", "a.zip", "jpg", "x.npy"):
        assert part_images([name]) == ([], {})


def test_the_guide_lists_what_is_read() -> None:
    guide = (Path(vitctl.__file__).parent / "guides" / "data.md").read_text(encoding="utf-8")
    listed = guide.partition("Images are what ends in `")[2].partition("`")[0].split()
    assert tuple(listed) == EXTENSIONS
    assert f"`{' '.join(HEIF_EXTENSIONS)}`" in guide


def test_part_images__any_case_most_frequent_first(without_heif: None) -> None:
    names = ["a/1.JPG", "2.jpe", "3.avif", "x.HEIC", "y.heic", "z.tga", "c.svg", "b.svg", "e.svg", "f.txt"]
    assert part_images(names) == (["a/1.JPG", "2.jpe", "3.avif"], {".svg": 3, ".heic": 2, ".tga": 1})


def test_a_sentence_says_how_to_read_them(without_heif: None) -> None:
    assert left_out_sentence({".heic": 12}) == f"12 .heic files are not read; {INSTALL} reads them."
    assert left_out_sentence({".tga": 1}) == "1 .tga file is not read."
    assert left_out_sentence({".heic": 1}) == f"1 .heic file is not read; {INSTALL} reads it."
    assert left_out_sentence({".heic": 1_200, ".heif": 2, ".nef": 3}) == (
        f"1,200 .heic, 2 .heif and 3 .nef files are not read; {INSTALL} reads .heic .heif."
    )
    assert left_out_sentence({}) == ""
    assert left_out_settings({}) == []
    (line,) = left_out_settings({".heic": 2, ".svg": 1})
    assert (line.name, line.value, line.reason) == ("left out", "2 .heic, 1 .svg", f"not read; {INSTALL} reads .heic")


def test_a_pillow_without_avif_says_so(without_avif: None) -> None:
    assert ".avif" not in image_endings()
    assert part_images(["1.avif"]) == ([], {".avif": 1})
    assert left_out_sentence({".avif": 1}).endswith("a newer Pillow reads .avif: pip install -U pillow.")


def test_together() -> None:
    assert together({".svg": 1, ".nef": 2}, {}, {".svg": 4}) == {".svg": 5, ".nef": 2}


# --- counted wherever images come from -------------------------------------------------------------------------

OTHERS = {"cat/x.dcm": ".dcm", "cat/deep/y.DCM": ".dcm", "dog/z.nef": ".nef", "loose.svg": ".svg"}
COUNTS = {".dcm": 2, ".nef": 1, ".svg": 1}


@pytest.fixture
def folder(tmp_path: Path, write_classes: Write) -> Path:
    folder = write_classes(tmp_path / "pets", cat=2, dog=1)
    (folder / "cat" / "deep").mkdir()
    for name in (*OTHERS, "cat/._a.nef", "notes.txt"):
        (folder / name).write_bytes(b"-")
    return folder


def _as_folder(folder: Path) -> Path:
    return folder


def _as_zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return path


def _as_tar(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.add(file, str(file.relative_to(folder)), recursive=False)
    return path


@pytest.mark.parametrize("write", [_as_folder, _as_zip, _as_tar])
def test_files_of_other_kinds_are_counted(folder: Path, write: Callable[[Path], Path]) -> None:
    spec = write(folder)
    for _ in range(2):  # of a tar file the index is kept
        split = open_source(str(spec)).split("all")
        assert (len(split), split.left_out) == (3, COUNTS)
        assert split.select([0]).left_out == COUNTS


def test_list_images__counts_them_too(folder: Path) -> None:
    images, left_out = list_images(str(folder))
    assert (len(images), left_out) == (3, COUNTS)


def test_an_index_of_shards_is_made_anew_where_other_endings_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, without_heif: None
) -> None:
    (folder / "dog" / "2.heic").write_bytes(b"-")
    spec = str(_as_tar(folder))
    assert open_source(spec).split("all").left_out[".heic"] == 1
    monkeypatch.setattr(endings, "has_heif", lambda: True)
    split = open_source(spec).split("all")
    assert (len(split), ".heic" in split.left_out) == (4, False)


@pytest.mark.usefixtures("without_heif")
def test_a_class_of_them_is_an_error_that_says_how_to_read_them(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path, cat=1, dog=0)
    for number in range(12):
        (folder / "dog" / f"{number}.HEIC").write_bytes(b"-")
    with pytest.raises(DataError, match=r"without an image: dog; .*12 \.heic files are not read; pip install"):
        open_training_sources(str(folder), val=None, val_fraction=None)
    (folder / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"no image in them; .*12 \.heic files are not read; pip install"):
        open_source(str(folder)).training_split()


# --- HEIC ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A HEIC photo: left half dark, right half bright, taken with the camera on its side."""
    pytest.importorskip("pillow_heif")
    heif._register()
    pixels = np.full((48, 64, 3), 30, dtype=np.uint8)
    pixels[:, 32:] = 220
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # as it is shown, the top is dark; written as HEIF's own rotation as well, as phones do
    file = io.BytesIO()
    image.info["exif"] = exif.tobytes()
    image.save(file, "HEIF", quality=90)
    assert b"irot" in file.getvalue()
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.heic", "a.HIF", "a.jpg"])
def test_a_heic_photo_is_read_upright_whatever_its_name(tmp_path: Path, photo: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(photo)
    image = read_rgb(path)
    assert (image.mode, image.size) == ("RGB", (48, 64))
    levels = np.asarray(image)[..., 1].astype(int)
    assert levels[:28].mean() == pytest.approx(30, abs=6)
    assert levels[36:].mean() == pytest.approx(220, abs=6)
    with open_image(io.BytesIO(photo)) as opened:
        assert opened.format == "HEIF"
        opened.draft(None, (8, 8))  # a thumbnail in it is not the image
        assert sorted(opened.size) == [48, 64]


def test_a_broken_heic_photo_has_a_reason(tmp_path: Path, photo: bytes) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(photo[: len(photo) // 2])
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever libheif says
        read_rgb(path)
    assert reason_of(caught.value)


@pytest.mark.usefixtures("without_heif")
def test_without_the_extra_a_heic_photo_by_another_name_is_said_to_be_one(tmp_path: Path, photo: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(photo)
    with pytest.raises(ValueError, match="HEIC") as caught:
        read_rgb(path)
    assert reason_of(caught.value) == f"a HEIC image; {INSTALL} reads such images"


def test_avif_is_no_heic(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "a.avif")
    with open_image(tmp_path / "a.avif") as image:
        assert image.format == "AVIF"
    assert not heif.is_heif((tmp_path / "a.avif").read_bytes()[: heif.NUM_MARK_BYTES])
