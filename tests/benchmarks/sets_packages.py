"""Debian's packages of pictures and fonts, fetched by their pinned version and read without being installed.

``sets_packages.txt`` has a line for each: name, version, SHA-256 of the archive, as Debian 12 has them. ``apt-get
download`` fetches one into a folder; an archive that lies there already, from wherever, is taken if its sum is right.
"""

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PINS = Path(__file__).with_name("sets_packages.txt")


class PackageError(Exception):
    """A package cannot be had, or is not the one that is pinned; the sentence says which."""


def pins() -> dict[str, tuple[str, str]]:
    """Return version and SHA-256 of every package, by name."""
    lines = (line.split() for line in PINS.read_text().splitlines() if line and not line.startswith("#"))
    return {name: (version, checksum) for name, version, checksum in lines}


def archive_of(name: str, folder: Path) -> Path:
    """Return the archive of a package in ``folder``; fetch it where it is not there.

    Raises:
        PackageError: It is not pinned, cannot be fetched, or its sum is another.
    """
    if name not in pins():
        raise PackageError(f"{PINS}: {name} has no line. Add its name, version and SHA-256.")
    version, checksum = pins()[name]
    found = sorted(folder.glob(f"{name}_{version.replace(':', '%3a')}_*.deb")) or _fetched(name, version, folder)
    actual = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if actual != checksum:
        raise PackageError(f"{found[0]}: its SHA-256 is {actual}, pinned is {checksum}. Remove it and try again.")
    return found[0]


def _fetched(name: str, version: str, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", f"{name}={version}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        found, said = sorted(folder.glob(f"{name}_*.deb")), done.stderr.strip()
    except FileNotFoundError:
        found, said = [], "there is no apt-get here"
    if not found:
        raise PackageError(
            f"{name} {version} could not be fetched: {said}. On Debian 12 run apt-get update; elsewhere put its "
            f"archive into {folder}."
        )
    return found


def files_in(archive: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of the files of an archive that are wanted, by path; links are followed within it."""
    with tempfile.TemporaryFile(dir=archive.parent) as unpacked:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=unpacked, check=True)
        unpacked.seek(0)
        with tarfile.open(fileobj=unpacked) as tar:
            members = [each for each in tar if not each.isdir() and is_wanted(each.name)]
            for member in sorted(members, key=lambda each: each.name):
                try:
                    file = tar.extractfile(member)
                except KeyError:  # a link to a file of another package
                    continue
                if file is not None:
                    yield member.name.removeprefix("./"), file.read()
