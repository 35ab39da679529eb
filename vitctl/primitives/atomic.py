"""Files and folders that change in one step, and what a process that was killed in the middle left beside them.

What is written grows under a name of its own beside its place, ``.NAME.partial``, which its writer keeps locked. Who
finds one that nobody holds takes it over: its writer is gone. So a killed process leaves at most one for each name, and
the next to write there clears it; git's ``index.lock``, which has to be removed by hand, is the warning.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TRIES = 100  # guess: of others that rename in the same moment there are a few
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux: fcntl.h, linux/fs.h
_FOLDER, _FILE = os.O_RDONLY | os.O_DIRECTORY, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK  # a FIFO is opened, and refused
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)  # an old kernel; NFS, FUSE; a sandbox


def partial_of(path: Path) -> Path:
    """Return where what will be ``path`` grows, or grew until its writer was killed."""
    return path.with_name(f".{path.name}.partial")


def _replaced_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


# --- what is on disk stays there


def sync(path: Path) -> None:
    """Wait until a file is on disk, or a folder with all that is in it.

    Raises:
        OSError: It could not be written, which some systems say only now (a full disk, a quota over a network).
    """
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            sync(inner)
        sync_names(path)
    elif path.is_file():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on disk, where the file system can do that."""
    with suppress(OSError):  # some cannot open or sync a folder; the names are right, if not yet kept
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- whose it is

_OPEN: set[int] = set()  # descriptors that keep something locked


def _closed(handle: int) -> None:
    _OPEN.discard(handle)
    os.close(handle)


def _let_go() -> None:
    """Close what a fork has inherited: a lock is kept while any process has it open, and its owner may be killed."""
    while _OPEN:
        with suppress(OSError):
            os.close(_OPEN.pop())


os.register_at_fork(after_in_child=_let_go)


def _locked(place: Path, *, is_folder: bool) -> int | None:
    """Return a descriptor that keeps ``place``, made if need be, locked; None where the system cannot tell.

    That is a file system without locks, or a thing of another kind or owner.

    Raises:
        BlockingIOError: Another process that is alive has it.
    """
    missing: FileNotFoundError | None = None
    for _ in range(_TRIES):
        if is_folder:
            with suppress(FileExistsError):
                place.mkdir()
        try:
            handle = os.open(place, (_FOLDER if is_folder else _FILE) | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError as error:
            missing = error
            continue  # its owner has just renamed or removed it; or nothing can be made there: /proc, no such folder
        except OSError:
            return None
        status = os.fstat(handle)
        if not is_folder and not stat.S_ISREG(status.st_mode):
            os.close(handle)
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(status, os.stat(place)):  # else it was renamed between the two calls
                _OPEN.add(handle)
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise
            return None
        os.close(handle)
    if missing is not None:
        raise missing
    return None


@contextmanager
def own_folder(path: Path) -> Iterator[bool]:
    """Make the folder ``path`` where there is none, and keep it as this process's.

    Yields:
        False if another process that is alive has it.

    Raises:
        OSError: It cannot be made, or is a link: who clears his folder must not clear what a link points to.
    """
    try:
        handle = _locked(path, is_folder=True)
    except BlockingIOError:
        yield False
        return
    if handle is None and (path.is_symlink() or not path.is_dir()):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    try:
        yield True
    finally:
        if handle is not None:
            _closed(handle)


def is_in_use(folder: Path) -> bool:
    """Return whether a process that is alive keeps ``folder`` as its own; False where there is none."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


@contextmanager
def partial_beside(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield an empty file or folder beside ``path`` that is this process's alone; removed at the end, if still there.

    Raises:
        OSError: It cannot be made.
    """
    place, handle = partial_of(path), None
    with suppress(BlockingIOError):
        handle = _locked(place, is_folder=is_folder)
    if handle is None:  # another process writes the same at this moment, and the last to end wins
        place = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
        place.mkdir() if is_folder else place.touch()
    elif is_folder:
        clear(place)
    else:
        os.truncate(handle, 0)
    status = os.stat(place)
    try:
        yield place
    finally:
        with suppress(OSError):
            if os.path.samestat(os.stat(place), status):  # else it is in its place, and this another process's
                shutil.rmtree(place) if is_folder else place.unlink()
        if handle is not None:
            _closed(handle)


def clear(folder: Path) -> None:
    """Remove all that is in a folder, which itself stays, and stays locked."""
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()


# --- one name for another


def put_in_place(new: Path, path: Path) -> None:
    """Rename the complete folder ``new`` to ``path``, and remove what stood there.

    At no time is there nothing at ``path``, where the system can exchange names in one step. Where it cannot, a process
    killed between two renames leaves it to ``recover``.

    Raises:
        OSError: It cannot be renamed.
    """
    try:
        os.rename(new, path)  # onto nothing, or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        with _held(path):  # or the next to write here would take the old one, under its new name, for its own
            old = new if _exchanged(new, path) else _renamed_one_by_one(new, path)
            sync_names(path.parent)  # only then: the old one is lost, the new one must not be
            shutil.rmtree(old, ignore_errors=True)
    sync_names(path.parent)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the folder that stands at a path, when whoever has just put it there has let go of it."""
    handle = None
    with suppress(OSError):  # gone, or on a file system without locks
        while handle is None or not os.path.samestat(os.fstat(handle), os.stat(folder)):
            if handle is not None:
                _closed(handle)
                handle = None
            handle = os.open(folder, _FOLDER)
            _OPEN.add(handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            _closed(handle)


def _renamed_one_by_one(new: Path, path: Path) -> Path:
    """Put ``new`` in the place of ``path``, and return where the old one is."""
    replaced = _replaced_of(path)
    shutil.rmtree(replaced, ignore_errors=True)  # left by one who was killed after both renames
    os.rename(path, replaced)
    with suppress(FileNotFoundError):  # a reader was quicker: see recover
        os.rename(new, path)
    return replaced


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False where the system cannot.

    renameat2(2) of Linux, which Python has no name for.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def recover(path: Path) -> None:
    """Bring back the folder ``path`` where a process was killed between the two renames that replace it."""
    if not path.name or os.path.lexists(path) or not os.path.isdir(replaced := _replaced_of(path)):
        return
    with suppress(OSError):  # the new one was complete when the old one went
        os.rename(partial_of(path), path)
        return
    with suppress(OSError):
        os.rename(replaced, path)
