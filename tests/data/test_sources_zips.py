"""Zip archives of class folders: the images of the folder, read without unpacking; hostile ones are refused."""

import io
import os
import pickle
import stat
import struct
import types
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.images import pixel_hash, reason_of
from vitctl.data.scan import scan_images
from vitctl.data.source import Split
from vitctl.data.sources import open_source
from vitctl.data.sources.zips import ZipImages
from vitctl.errors import DataError, SettingError

Write = Callable[..., Path]


def pack(folder: Path, path: Path, method: int = zipfile.ZIP_DEFLATED, prefix: str = "") -> Path:
    """Pack the files of ``folder``."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # the order in the archive means nothing
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def pixels_of(split: Split) -> list[str]:
    return [pixel_hash(split.read(position)) for position in range(len(split))]


@pytest.fixture
def folder(tmp_path: Path, write_classes: Write) -> Path:
    return write_classes(tmp_path / "pets", cat=11, dog=2)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_gives_the_images_of_its_folder_in_the_same_order(folder: Path, tmp_path: Path, method: int) -> None:
    path = pack(folder, tmp_path / "pets.ZIP", method)
    source = open_source(str(path))
    ours, theirs = source.split("all"), open_source(str(folder)).split("all")
    assert source.description == "a zip archive of class folders"
    assert source.spec == str(path)
    assert [name.removeprefix(f"{path}/") for name in ours.image_names()] == [
        str(Path(name).relative_to(folder)) for name in theirs.image_names()
    ]
    assert (ours.labels.tolist(), ours.class_names) == (theirs.labels.tolist(), theirs.class_names)
    assert pixels_of(ours) == pixels_of(theirs)


def test_images_pickle_and_are_read_by_threads_and_processes(folder: Path, tmp_path: Path) -> None:
    split = open_source(str(pack(folder, tmp_path / "pets.zip"))).split("all")
    expected = pixels_of(split)
    again = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 5_000  # paths, no open file and no list of the archive
    with ThreadPoolExecutor(8) as pool:
        order = list(range(len(split))) * 20
        found = list(pool.map(lambda position: pixel_hash(again.read(position)), order))
    assert found == expected * 20
    process = os.fork()
    if not process:  # reads while the parent does
        os._exit(0 if all(pixels_of(split) == expected for _ in range(5)) else 1)
    assert all(pixels_of(split) == expected for _ in range(5))
    assert os.waitpid(process, 0)[1] == 0


def test_an_archive_that_is_replaced__is_noticed(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "pets.zip")
    images = open_source(str(path)).split("all").images
    before = images.stamp(0)
    images.open(0).close()
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("other/1.png", (folder / "cat" / "0.png").read_bytes())
    os.replace(tmp_path / "new.zip", path)
    assert images.stamp(0) != before
    with pytest.raises(ValueError, match="the archive is damaged or has changed"):
        images.open(0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_sizes_that_follow_the_data__are_those_of_the_directory(
    folder: Path, tmp_path: Path, is_streamed: bool
) -> None:
    """As archives are written to a pipe: local headers have no sizes; and with extra fields (zip64) before the data."""
    target = file = io.BytesIO()
    if is_streamed:
        target = types.SimpleNamespace(write=file.write, flush=file.flush)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.png")):
            with archive.open(str(path.relative_to(folder)), "w", force_zip64=True) as member:
                member.write(path.read_bytes())
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh, as archives that unpack themselves have\n" + file.getvalue())
    assert bool(file.getvalue()[6] & 8) == is_streamed
    split = open_source(str(tmp_path / "a.zip")).split("all")
    assert pixels_of(split) == pixels_of(open_source(str(folder)).split("all"))


def test_a_name_without_its_encoding_is_utf_8_where_it_can_be(folder: Path, tmp_path: Path) -> None:
    """As macOS packs: UTF-8, decomposed, without the flag that says so."""
    path = tmp_path / "mac.zip"
    content = (folder / "cat" / "0.png").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cafe\u0301/1.png", content)
        archive.writestr("tea/1.png", content)
    raw = path.read_bytes()
    flagged, plain = struct.pack("<H", 0x800), struct.pack("<H", 0)
    at = [raw.index(b"PK\x03\x04") + 6, raw.index(b"PK\x01\x02") + 8]
    for place in at:
        assert raw[place : place + 2] == flagged
        raw = raw[:place] + plain + raw[place + 2 :]
    path.write_bytes(raw)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] != "cafe\u0301/1.png"  # which is the point
    split = open_source(str(path)).split("all")
    assert split.class_names == ("caf\u00e9", "tea")
    assert len(pixels_of(split)) == 2


def test_a_name_in_the_letters_of_another_windows_is_said(folder: Path, tmp_path: Path) -> None:
    """As Windows packs in Korean: CP949, without a flag."""
    path, korean = tmp_path / "windows.zip", "고양이".encode("cp949")
    content = (folder / "cat" / "0.png").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("k" * len(korean) + "/1.png", "k" * len(korean) + "/2.png", "tea/1.png"):
            archive.writestr(name, content)
    path.write_bytes(path.read_bytes().replace(b"k" * len(korean), korean))
    source = open_source(str(path))
    read = korean.decode("cp437")
    assert source.split("all").class_names == ("tea", read)
    (note,) = source.notes
    assert note.startswith(
        f"2 names in {path} are neither ASCII nor UTF-8, as Windows packs in other languages; {read}/1"
    )
    assert open_source(str(pack(folder, tmp_path / "pets.zip"))).notes == ()


@pytest.mark.parametrize("name", ["../../cat/1.png", "/cat/1.png", "./cat//1.png", "cat\\1.png", "x/../cat/1.png"])
def test_a_name_leads_nowhere(folder: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), (folder / "cat" / "0.png").read_bytes())
        archive.writestr("dog/1.png", (folder / "cat" / "1.png").read_bytes())
    split = open_source(str(tmp_path / "a.zip")).split("all")
    place = "x/cat/1.png" if name.startswith("x") else "cat/1.png"
    assert f"{tmp_path}/a.zip/{place}" in split.image_names()
    assert len(set(pixels_of(split))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "pets"]


def test_a_name_that_comes_twice_is_the_last_as_when_it_is_unpacked(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, number in (("cat/1.png", 1), ("./cat/1.png", 2), ("dog/1.png", 3)):
            archive.writestr(name, (folder / "cat" / f"{number}.png").read_bytes())
    split = open_source(str(tmp_path / "a.zip")).split("all")
    assert len(split) == 2
    with Image.open(folder / "cat" / "2.png") as last:
        assert pixels_of(split)[0] == pixel_hash(last)


# --- what cannot be read ---------------------------------------------------------------------------------------


def _patched(path: Path, *, flag: int | None = None, method: int | None = None) -> Path:
    """Change flags or method of the first member, in both of its headers."""
    raw = bytearray(path.read_bytes())
    for start, place in ((raw.index(b"PK\x03\x04"), 6), (raw.index(b"PK\x01\x02"), 8)):
        if flag is not None:
            raw[start + place : start + place + 2] = struct.pack("<H", flag)
        if method is not None:
            raw[start + place + 2 : start + place + 4] = struct.pack("<H", method)
    path.write_bytes(raw)
    return path


def test_an_encrypted_archive_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    path = _patched(pack(folder / "cat", tmp_path / "a.zip", prefix="cat/"), flag=1)
    with pytest.raises(DataError, match=r"a\.zip is encrypted \(1 images?, cat/.*\.png first\); expected an archive"):
        open_source(str(path))


def test_a_method_that_python_lacks_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    path = _patched(pack(folder / "cat", tmp_path / "a.zip", prefix="cat/"), method=9)
    with pytest.raises(
        DataError, match=r"packs cat/.*\.png by Deflate64, as Windows does large files, which Python does not read"
    ):
        open_source(str(path))


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_file_that_is_no_whole_archive_is_one_sentence(folder: Path, tmp_path: Path, damage: str) -> None:
    path = pack(folder, tmp_path / "a.zip")
    path.write_bytes({"empty": b"", "text": b"hello", "cut": path.read_bytes()[:-300]}[damage])
    with pytest.raises(DataError, match=r"a\.zip cannot be read as a zip archive .*copy it again"):
        open_source(str(path))


def test_an_archive_without_images_is_one_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("read.txt", "")
    with pytest.raises(DataError, match=r"a\.zip is empty; expected one folder of images per class"):
        open_source(str(tmp_path / "a.zip")).training_split()


def _reasons(path: Path) -> dict[str, str]:
    split = open_source(str(path)).split("all")
    scan = scan_images(split, num_threads=2, conversation=Conversation())
    return {split.image_name(position).removeprefix(f"{path}/"): reason for position, reason in scan.bad.items()}


def test_a_bomb_a_link_and_a_broken_member_are_bad_images(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/bomb.png", bytes(2**20))
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("dog/1.png", (folder / "dog" / "1.png").read_bytes(), zipfile.ZIP_STORED)
        archive.writestr("dog/2.png", (folder / "dog" / "0.png").read_bytes(), zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    raw[raw.index((folder / "dog" / "1.png").read_bytes()) + 60] ^= 255
    declared = raw.index(b"PK\x01\x02") + 24  # of the first member
    raw[declared : declared + 4] = struct.pack("<I", 300 * 2**20)
    path.write_bytes(raw)
    reasons = _reasons(path)
    assert sorted(reasons) == ["cat/bomb.png", "cat/link.png", "dog/1.png"]
    assert reasons["cat/bomb.png"].startswith("it says that 300 MiB are packed into its 1.0")
    assert reasons["cat/link.png"] == "a link, which leads nowhere in an archive"
    assert reasons["dog/1.png"] == "bad CRC-32 for file 'dog/1.png'"


def test_a_member_that_says_less_than_it_holds__no_more_is_unpacked(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(10_000_000))
    raw = bytearray(path.read_bytes())
    directory = raw.index(b"PK\x01\x02")
    raw[directory + 24 : directory + 28] = struct.pack("<I", 100)  # of the size when it is unpacked
    path.write_bytes(raw)
    images = open_source(str(path)).split("all").images
    assert isinstance(images, ZipImages)
    assert images.members[0, 2] == 100
    with pytest.raises((zipfile.BadZipFile, OSError)) as caught:
        images.open(0)
    assert "\n" not in reason_of(caught.value)


def test_options_of_tables_mean_nothing_to_an_archive(folder: Path, tmp_path: Path) -> None:
    from vitctl.data.source import SourceOptions

    with pytest.raises(SettingError, match="--label-column is given, but .* has no use for it"):
        open_source(str(pack(folder, tmp_path / "a.zip")), SourceOptions(label_column="x"))
