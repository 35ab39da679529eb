"""Data sets of the hub: what a spec says, and the real ``load_dataset`` on stand-ins for the hub."""

import hashlib
import http.server
import io
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image

from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import hub, open_source
from vitctl.errors import DataError, SettingError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets cache")


def _png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), grey).save(file, "PNG")
    return file.getvalue()


def _dataset(*greys: int) -> Dataset:
    """Return one image per grey: a dog from 100 up, else a cat."""
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["dog", "cat"])})
    images = [{"bytes": _png(grey), "path": None} for grey in greys]
    return Dataset.from_dict({"image": images, "label": [int(grey < 100) for grey in greys]}, features=features)


def _write(path: Path, *greys: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _dataset(*greys).to_parquet(str(path))


def _open(spec: str, **options: str) -> Source:
    return open_source(spec, SourceOptions(**options))


def _found(split: Split) -> list[tuple[str, int]]:
    """Return (class, grey) of every image."""
    greys = [int(np.asarray(split.read(position))[0, 0, 0]) for position in range(len(split))]
    return [(split.class_names[label], grey) for label, grey in zip(split.labels, greys, strict=True)]


def test_only_specs_with_the_prefix_are_recognised() -> None:
    assert hub.recognises("hub:acme/pets")
    assert hub.recognises("hub:whatever")  # to be told what is wrong with it
    assert not hub.recognises("acme/pets")
    assert not hub.recognises("./hub:acme/pets")


@pytest.mark.parametrize(
    "spec",
    [
        "hub:", "hub:pets", "hub:acme/pets/more", "hub:/pets", "hub:acme/", "hub:acme/pets:", "hub:acme/pets@",
        "hub:acme/pets:a:b", "hub:acme/pets:@train", "hub:acme pets/x", "hub: acme/pets", "hub:acme/pets:a@",
    ],
)  # fmt: skip
def test_a_malformed_spec_is_an_error(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("asked for"))
    with pytest.raises(DataError, match=r"is not a data set of the hub; expected hub:OWNER/NAME\[:CONFIG\]\[@SPLIT\]"):
        open_source(spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hub:acme/pets", ("acme/pets", None, None)),
        ("hub:Acme-1/my_pets.v2", ("Acme-1/my_pets.v2", None, None)),
        ("hub:acme/pets:big", ("acme/pets", "big", None)),
        ("hub:acme/pets@train", ("acme/pets", None, "train")),
        ("hub:acme/pets:fold 1@train[:10%]", ("acme/pets", "fold 1", "train[:10%]")),
        ("hub:acme/pets@train[:5]+test", ("acme/pets", None, "train[:5]+test")),
    ],
)
def test_name_configuration_and_split_are_passed_on(
    spec: str, expected: tuple[str, str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(path: str, name: str | None = None, *, split: str | None = None, **others: Any) -> Any:
        asked.append((path, name, split))
        assert not others.get("trust_remote_code")
        return DatasetDict(train=_dataset(1, 200)) if split is None else _dataset(1, 200)

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_source(spec)
    assert asked == [expected]
    assert source.spec == spec
    assert source.description == "a data set of the Hugging Face hub: images in column 'image', classes in 'label'"
    assert list(source.splits) == (["train"] if expected[2] is None else ["all"])
    assert source.notes == ()


def test_splits_of_a_local_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    _write(Path("acme/pets/train-00000-of-00001.parquet"), 1, 200, 2)
    _write(Path("acme/pets/validation-00000-of-00001.parquet"), 201)
    _write(Path("acme/pets/test-00000-of-00001.parquet"), 3, 4)
    source = open_source("hub:acme/pets")
    assert list(source.splits) == ["train", "val", "test"]
    assert source.splits["train"].class_names == ("cat", "dog")
    assert _found(source.splits["train"]) == [("cat", 1), ("dog", 200), ("cat", 2)]
    assert _found(source.splits["val"]) == [("dog", 201)]
    assert _found(source.splits["test"]) == [("cat", 3), ("cat", 4)]
    assert source.splits["train"].image_name(2) == "hub:acme/pets/train/2"
    assert source.notes == ("The folder ./acme/pets is read, not the hub: datasets prefers it.",)


def test_one_split_is_all_there_is() -> None:
    _write(Path("acme/pets/train.parquet"), 1, 200, 2)
    _write(Path("acme/pets/test.parquet"), 3)
    source = open_source("hub:acme/pets@test")
    assert list(source.splits) == ["all"]
    assert _found(source.splits["all"]) == [("cat", 3)]
    assert source.splits["all"].image_name(0) == "hub:acme/pets@test/0"


def test_a_part_of_a_split() -> None:
    _write(Path("acme/pets/train.parquet"), *range(10))
    assert [grey for _, grey in _found(open_source("hub:acme/pets@train[20%:50%]").splits["all"])] == [2, 3, 4]
    assert [grey for _, grey in _found(open_source("hub:acme/pets@train[-2:]").splits["all"])] == [8, 9]


def test_a_part_of_a_split_pickles() -> None:
    _write(Path("acme/pets/train.parquet"), *range(10))
    split = open_source("hub:acme/pets@train[3:6]").splits["all"]
    assert _found(pickle.loads(pickle.dumps(split))) == [("cat", 3), ("cat", 4), ("cat", 5)]


@pytest.fixture
def two_configurations() -> None:
    _write(Path("acme/pets/big/train.parquet"), 1, 2, 200)
    _write(Path("acme/pets/small/train.parquet"), 7)
    Path("acme/pets/README.md").write_text(
        "---\nconfigs:\n- config_name: big\n  data_files: big/train.parquet\n"
        "- config_name: small\n  data_files: small/train.parquet\n---\n"
    )


@pytest.mark.usefixtures("two_configurations")
def test_a_configuration_is_chosen() -> None:
    assert _found(open_source("hub:acme/pets:big").training_split()) == [("cat", 1), ("cat", 2), ("dog", 200)]
    assert _found(open_source("hub:acme/pets:small@train").training_split()) == [("cat", 7)]


@pytest.mark.usefixtures("two_configurations")
def test_a_missing_or_unknown_configuration_is_an_error_that_lists_them() -> None:
    with pytest.raises(
        DataError, match=r"hub:acme/pets cannot be read: .*\['big', 'small'\].*Check name, configuration"
    ):
        open_source("hub:acme/pets")
    with pytest.raises(DataError, match=r"hub:acme/pets:huge cannot be read: .*'huge' not found.*'big', 'small'"):
        open_source("hub:acme/pets:huge")


def test_an_unknown_split_is_an_error_that_lists_them() -> None:
    _write(Path("acme/pets/train.parquet"), 1)
    with pytest.raises(DataError, match=r"hub:acme/pets@trian cannot be read: .*trian.*\['train'\]"):
        open_source("hub:acme/pets@trian")


def test_columns_of_the_hub_can_be_named() -> None:
    Path("acme/pets").mkdir(parents=True)
    table = pa.table({"image": [_png(1), _png(2)], "scan": [_png(3), _png(4)], "label": ["a", "b"], "who": ["p", "q"]})
    pq.write_table(table, "acme/pets/train.parquet")
    split = _open("hub:acme/pets", image_column="scan", label_column="who", group_column="label").training_split()
    assert _found(split) == [("p", 3), ("q", 4)]
    assert split.groups is not None
    assert split.groups.tolist() == ["a", "b"]
    with pytest.raises(DataError, match=r"hub:acme/pets has no column 'labl' .*Did you mean 'label'\?"):
        _open("hub:acme/pets", label_column="labl")
    with pytest.raises(SettingError, match="--image-root is given, but hub:acme/pets has no use for it"):
        _open("hub:acme/pets", image_root=".")


def test_without_a_network_the_sentence_says_what_to_do() -> None:
    with pytest.raises(DataError) as caught:
        open_source("hub:acme/pets")
    assert str(caught.value).startswith("hub:acme/pets cannot be read: ")
    assert "save_to_disk, and give that folder" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- a server that answers like the hub

COMMIT = "a" * 40


@contextmanager
def _serve(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve the data set acme/pets of ``files``, none in a folder; yield address and the list of requests so far."""
    asked: list[str] = []
    api = "/api/datasets/acme/pets"

    class Hub(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None: ...

        def reply(self, code: int, content: bytes, **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def answer(self) -> None:
            path = urlsplit(self.path).path
            asked.append(f"{self.command} {path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            name = path.removeprefix("/datasets/acme/pets/resolve/").partition("/")[2]
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                siblings = [{"rfilename": name} for name in files]
                self.reply(200, json.dumps({"id": "acme/pets", "sha": COMMIT, "siblings": siblings}).encode())
            elif path.startswith(f"{api}/tree/"):
                below = path.removeprefix(f"{api}/tree/").partition("/")[2]
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                    if not below or name == below
                ]
                self.reply(200, json.dumps(entries).encode(), Content_Type="application/json")
            elif path.startswith("/datasets/acme/pets/resolve/") and name in files:
                self.reply(200, files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"')
            else:
                self.reply(404, b"{}", X_Error_Code="EntryNotFound")

        do_GET = do_HEAD = do_POST = answer

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_the_hub_itself_is_asked_and_then_its_copy_is_read(tmp_path: Path) -> None:
    columns = {"image": [_png(1), _png(2), _png(200)], "label": ["cat", "cat", "dog"]}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    code = (
        "from vitctl.data.sources import open_source\n"
        "source = open_source('hub:acme/pets@train')\n"
        "split = source.splits['all']\n"
        "grey = split.read(2).getpixel((0, 0))[0]\n"
        "print(*split.class_names, *split.counts(), grey, *source.notes)"
    )
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_TOKEN", "HF_DATASETS_OFFLINE"):
        env.pop(name, None)

    def run(**more: str) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=env | more, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with _serve({"train-00000-of-00001.parquet": file.getvalue()}) as (address, asked):
        assert run(HF_ENDPOINT=address) == "cat dog 2 1 200"
        path = f"/datasets/acme/pets/resolve/{COMMIT}/train-00000-of-00001.parquet"
        assert asked.count(f"GET {path}") == 1
        assert run(HF_ENDPOINT=address) == "cat dog 2 1 200"
        assert asked.count(f"GET {path}") == 1  # the copy in the cache is read
    assert run(HF_ENDPOINT=address, HF_HUB_OFFLINE="1") == "cat dog 2 1 200"
