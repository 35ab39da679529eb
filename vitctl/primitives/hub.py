"""Whether the Hugging Face hub can be reached, found out in a second rather than by a minute of retries."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

TIMEOUT_S = 5.0
HUB_CACHE = Path(constants.HF_HUB_CACHE)
"""Folder that the hub's client downloads to."""

NotThereError = EntryNotFoundError
"""What the hub's client raises of a file that a repository, or its cache where that is all there is, does not hold."""


def hub_is_reachable() -> bool:
    """Return whether a connection to the hub ($HF_ENDPOINT) opens; True behind a proxy, where only it can tell."""
    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


@contextmanager
def hub_access() -> Iterator[bool]:
    """Yield whether the hub is reachable; where it is not, its client looks into its cache only.

    Without this the client repeats every request for half a minute before it looks there.
    """
    is_reachable = hub_is_reachable()
    with _offline(constants.HF_HUB_OFFLINE or not is_reachable):
        yield is_reachable


@contextmanager
def hub_cache_only() -> Iterator[bool]:
    """Keep the hub's client to its cache: what was fetched and looked at is then what is read. Yields True."""
    with _offline(True):
        yield True


@contextmanager
def _offline(is_offline: bool) -> Iterator[None]:
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = is_offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
