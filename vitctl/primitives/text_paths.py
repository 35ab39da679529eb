"""Paths for readers that take text only, safetensors among them: a file's name may hold bytes that are no UTF-8."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_text(path: Path) -> bool:
    """Return whether a path is UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def text_path(path: Path) -> Iterator[Path]:
    """Yield ``path``; where it is not UTF-8 a link to it that is, of the same ending, for as long as the block runs."""
    if is_text(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="vitctl-") as folder:
        link = Path(folder) / f"link{path.suffix if is_text(Path(path.suffix)) else ''}"
        link.symlink_to(path.absolute())
        yield link
