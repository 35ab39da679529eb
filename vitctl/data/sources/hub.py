"""``hub:OWNER/NAME[:CONFIG][@SPLIT]``: a data set of the Hugging Face hub, through ``datasets.load_dataset``.

It is downloaded once into the cache of ``datasets`` (``HF_HOME``, ``HF_DATASETS_CACHE``). Data sets that need a
script of their own are refused: ``datasets`` no longer runs any.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vitctl.data.columns import quiet_datasets, root_cause
from vitctl.data.source import Source, SourceOptions
from vitctl.data.sources.saved import source_of
from vitctl.errors import DataError
from vitctl.primitives.hub import HUB_CACHE, hub_access
from vitctl.primitives.out_of_memory import is_out_of_memory

OPTIONS: tuple[str, ...] = ("image_column", "label_column", "group_column")
PREFIX = "hub:"
_SPEC = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(:(?P<config>[^:@]+))?(@(?P<split>.+))?")


def recognises(spec: str) -> bool:
    """Return whether ``spec`` starts with ``hub:``."""
    return spec.startswith(PREFIX)


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the splits of a data set of the hub; with ``@SPLIT`` that split alone, as ``all``.

    ``SPLIT`` may be a part, in the notation of ``datasets``: ``train[:10%]``.

    Raises:
        DataError: The spec is malformed, or the data set cannot be fetched, is unknown or lacks a column.
    """
    from datasets import config as caches
    from datasets import load_dataset

    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DataError(f"{spec!r} is not a data set of the hub; expected hub:OWNER/NAME[:CONFIG][@SPLIT].")
    repo, config, split = match["repo"], match["config"], match["split"]
    notes = (f"The folder ./{repo} is read, not the hub: datasets prefers it.",) if Path(repo).is_dir() else ()
    try:
        with quiet_datasets(), _hub():
            loaded = load_dataset(repo, config, split=split)
    except Exception as error:  # the hub client, pyarrow and datasets have no common base class
        if is_out_of_memory(error):
            raise
        raise DataError(
            f"{spec} cannot be read: {root_cause(error)}. Check name, configuration and split, or, where there is no "
            "network, fetch it elsewhere, write it with datasets' save_to_disk, and give that folder."
        ) from error
    source = source_of(
        loaded,
        options,
        spec=spec,
        description="a data set of the Hugging Face hub",
        root=None,
        # a row of a downloaded data set may point to what was downloaded with it, and to no other file of this machine
        inside=[Path(caches.HF_CACHE_HOME), Path(caches.HF_DATASETS_CACHE), HUB_CACHE, Path(repo)],
    )
    return replace(source, notes=notes)


@contextmanager
def _hub() -> Iterator[None]:
    """Let ``datasets`` look into its cache only where the hub cannot be reached, and count no downloads."""
    from datasets import config

    before = config.HF_HUB_OFFLINE, config.HF_UPDATE_DOWNLOAD_COUNTS
    with hub_access() as is_reachable:
        config.HF_HUB_OFFLINE, config.HF_UPDATE_DOWNLOAD_COUNTS = before[0] or not is_reachable, False
        try:
            yield
        finally:
            config.HF_HUB_OFFLINE, config.HF_UPDATE_DOWNLOAD_COUNTS = before
