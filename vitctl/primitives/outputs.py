"""Where results go: whether they can be written there, and what to say where they cannot."""

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vitctl.errors import SettingError
from vitctl.primitives.files import lies_inside, user_path

# of the place, not of what is written: no space, quota, size limit, read-only, broken or gone
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV}


def cannot_write(path: Path, why: object, *, option: str = "--out") -> SettingError:
    """Return the error of a path that cannot be written.

    Args:
        path: What was to be written, or a folder of it.
        why: What is in the way; of an ``OSError`` the system's words, and which file it was.
        option: The option that says where to write; empty for an argument.
    """
    told = _in_words(why, path) if isinstance(why, OSError) else why
    is_full = isinstance(why, OSError) and why.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "Make room there, or give another folder." if is_full else "Give another folder."
    sentence = f"{option} {path} cannot be written: {told}. {advice}".lstrip()
    return SettingError(sentence, field=option.removeprefix("--") or None)


def _in_words(error: OSError, path: Path) -> str:
    """Return what the system says (numpy, of a file that stays too short, has only its own words)."""
    words = error.strerror or str(error)
    is_known = error.filename in (None, str(path)) or not isinstance(error.filename, str)
    return words if is_known else f"{words} ({error.filename})"


def is_of_writing(error: OSError, path: Path) -> bool:
    """Return whether an error is one of writing below ``path``: it names a file there, or the disk is to blame."""
    names = (name for name in (error.filename, error.filename2) if isinstance(name, str))
    return error.errno in _OF_THE_DISK or any(Path(name).is_relative_to(path) for name in names)


def check_writable(path: Path, *, option: str = "--out") -> None:
    """Check that a folder or file can be made at ``path``, or written to; changes nothing.

    Raises:
        SettingError: It cannot.
    """
    there = path.absolute()
    try:
        while not there.exists():
            there = there.parent
    except OSError as error:  # a name too long
        raise cannot_write(path, error.strerror, option=option) from error
    if not there.is_dir():
        raise cannot_write(path, f"{there} is a file, not a folder", option=option)
    if not os.access(there, os.W_OK | os.X_OK):
        raise cannot_write(path, f"no permission in {there}", option=option)


def check_replaceable(folder: Path, ours: Collection[str], *, by: str) -> bool:
    """Check that a folder may be made at ``folder``, or replaced as nothing else lies in it; changes nothing.

    Args:
        folder: Where results go.
        ours: Names in it that may be replaced; none where what lies there is of others.
        by: The command that writes these, for the message.

    Returns:
        Whether something is replaced.

    Raises:
        SettingError: Something else lies there, or it cannot be written to.
    """
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise SettingError(f"--out {folder} is a file; expected a folder, or nothing there yet.", field="out")
        check_writable(folder)
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(names - set(ours))
    if foreign:
        raise SettingError(
            f"--out {folder} holds {foreign[0]}, which {by} did not write. Move it away, or give another folder with "
            "--out.",
            field="out",
        )
    return bool(names)


def check_file(path: Path, *, ending: str, option: str, inputs: Mapping[str, str | None]) -> None:
    """Check that a file can be written at ``path``; changes nothing.

    Args:
        path: The file; it may be there already, and is replaced then.
        ending: What its name ends in.
        option: The option that names it.
        inputs: Files that are read, by what they hold, which it must not be.

    Raises:
        SettingError: It cannot.
    """
    field = option.removeprefix("--")
    for what, text in inputs.items():
        if text is not None and path.resolve() == user_path(text).resolve():
            raise SettingError(f"{option} is {path}, the file of {what} itself; give another file.", field=field)
    if path.suffix != ending or path.is_dir():
        found = "a folder" if path.is_dir() else path.name
        raise SettingError(f"{option} {path} is {found}; give a file that ends in {ending}.", field=field)
    check_writable(path.parent, option=option)


@contextmanager
def writing(path: Path, *, option: str = "--out") -> Iterator[None]:
    """Say in a sentence that what the block writes to ``path`` cannot be written.

    Raises:
        SettingError: It cannot.
    """
    try:
        yield
    except BrokenPipeError:  # of our own output, not of the files
        raise
    except OSError as error:
        raise cannot_write(path, error, option=option) from error


def check_elsewhere(path: Path, specs: Iterable[str], *, option: str = "--out") -> None:
    """Check that results do not go into the data, where the next command would take them for images.

    Args:
        path: Where results go, absolute.
        specs: Of the data that are read.
        option: The option that says where to write.

    Raises:
        SettingError: They do.
    """
    for spec in dict.fromkeys(specs):
        if lies_inside(path, spec):
            raise SettingError(
                f"{option} {path} lies inside the data {spec}, where the next command would take it for images. Give a "
                f"place elsewhere with {option}.",
                field=option.removeprefix("--"),
            )
