"""Whether the Hugging Face hub can be reached, found out in a second rather than by a minute of retries."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

TIMEOUT_S = 5.0
HUB_CACHE = Path(constants.HF_HUB_CACHE)
"""Folder that the hub's client downloads to."""


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
    before = constants.HF_HUB_OFFLINE
    is_reachable = hub_is_reachable()
    constants.HF_HUB_OFFLINE = before or not is_reachable
    try:
        yield is_reachable
    finally:
        constants.HF_HUB_OFFLINE = before
