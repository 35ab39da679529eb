"""Use torch, torchvision and timm without importing torch's compiler, whose import takes about as long as torch's own.

Four places ask for ``torch._dynamo`` where nothing is compiled: torchvision's ``ops.roi_align`` and timm's
``optim.kron`` when they are imported, torch's optimisers, which tell it at every step what not to compile, and torch's
gradient checkpointing, which reads a setting. Within
``compiler_later`` two small modules stand in for it and know what these ask for. Whoever asks for anything else gets
the compiler: the stand-ins go, and it is imported. So a torch, torchvision or timm that asks otherwise costs time, and
nothing else.

The standard library's ``importlib.util.LazyLoader`` loads at the first attribute that is read; all four read one.
"""

import atexit
import functools
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from vitctl.primitives.cache import cache_folder, make_private

COMPILER = "torch._dynamo"
COMPILED_FILES = "TORCHINDUCTOR_CACHE_DIR"  # read when the compiler is imported, and by every process it starts


def keep_compiled_files() -> None:
    """Let the compiler keep its files, which are executed, in vitctl's cache folder; called before it is imported.

    Of itself it takes ``/tmp/torchinductor_USER``, a name that another user of the machine can be first to take. Where
    the cache cannot be written it gets a folder that goes when the process does; what a user has named stays.
    """
    if os.environ.get(COMPILED_FILES):
        return
    cache = cache_folder()
    folder = None if cache is None else cache / "compiled"
    try:
        if folder is not None:
            make_private(folder)
    except OSError:
        folder = None
    if folder is None:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[COMPILED_FILES] = str(folder)


class _StandIn(ModuleType):
    """A module that knows the names it was given, and has the compiler's for all others."""

    def __init__(self, name: str, **known: object) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # who looks through sys.modules for files or docstrings does not ask for a compiler
            raise AttributeError(name)
        return getattr(_compiler(self.__name__), name)


class _Settings(SimpleNamespace):
    """The compiler's settings: those that are set here or known, and the compiler's own for all others."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_compiler(f"{COMPILER}.config"), name)


class _Part(MetaPathFinder, Loader):
    """Finds the parts of the compiler that no stand-in plays: imports all of it, and hands on what is there then."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for ``name`` if it is a part of the compiler."""
        if not name.startswith(f"{COMPILER}."):
            return None
        module = _compiler(name)
        # on the module too: of one that was imported meanwhile Python takes its own spec, and executes its file again
        module.__spec__ = ModuleSpec(name, self, loader_state=(module, module.__spec__))
        return module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the part that has been imported already."""
        module: ModuleType = spec.loader_state[0]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give ``module`` back its own spec; it has been executed."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state[1]


def _compiler(name: str) -> ModuleType:
    """Return the module ``name`` of the compiler itself; where stand-ins are in its place, import it."""
    keep_compiled_files()
    _leave()
    return importlib.import_module(name)


def _leave() -> None:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Part)]


def _disable(function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """Return ``function``, which must not be compiled; torch keeps what it gets, so it obeys a later compiler too."""
    if function is None:  # a decorator is wanted
        decorator: Callable[..., Any] = _compiler(COMPILER).disable(*args, **kwargs)
        return decorator

    @functools.wraps(function)
    def later(*given: Any, **named: Any) -> Any:
        compiler = sys.modules.get(COMPILER)
        if compiler is None or isinstance(compiler, _StandIn):
            return function(*given, **named)
        return compiler.disable(function, *args, **kwargs)(*given, **named)

    return later


def _is_compile_supported(device_type: object) -> Any:
    return _compiler(f"{COMPILER}.utils").is_compile_supported(device_type)


@contextmanager
def compiler_later() -> Iterator[None]:
    """Let what is done within import ``torch._dynamo`` without loading it, until something of it is needed.

    What is set in the ``config`` of a stand-in is forgotten: timm's kron sets a limit for its own compiled functions.
    What torch's gradient checkpointing reads there has torch's default, and is used only where something is traced.
    """
    if COMPILER in sys.modules:  # the compiler, or an outer stand-in
        yield
        return
    utils = _StandIn(f"{COMPILER}.utils", is_compile_supported=_is_compile_supported)
    known = {"config": _Settings(error_on_nested_fx_trace=True), "disable": _disable, "graph_break": lambda: None}
    sys.modules[COMPILER] = _StandIn(COMPILER, __path__=[], utils=utils, **known)
    sys.modules[utils.__name__] = utils
    sys.meta_path.insert(0, _Part())
    try:
        yield
    finally:
        _leave()
