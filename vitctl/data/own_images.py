"""A run's own images, found again in data that may lie elsewhere now, be packed, or have other names: by content.

An image is found by its name, from the root of the data, and its content hash, else by the hash alone. Runs of vitctl
0.1.0 list no hashes, so theirs are found by name.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vitctl.data.image_names import names_below_root
from vitctl.data.run_lists import Listed, Listing, trained_on
from vitctl.data.scan import Scan
from vitctl.data.source import Source, Split
from vitctl.errors import DataError

Look = Callable[[Split], Scan]
"""Looks at images: ``vitctl.data.looks.Looks.scan``."""


class Found(NamedTuple):
    """Images of a run.

    Attributes:
        split: The images, in the order of the run's list.
        how: How they were found, for the header: ``by content``; "" where everything is as it was.
        notes: Sentences the user should see.
    """

    split: Split
    how: str
    notes: tuple[str, ...] = ()


class OwnImages:
    """The lists of a run, to find its images by.

    Args:
        run: The run folder.
        listing: The images that it validated on, and those that it left untouched, or out.
        image_root: Where the names of its images start, if the run was told.
        advice: What a message tells to try.
    """

    def __init__(self, run: Path, listing: Listing, *, image_root: str | None, advice: str) -> None:
        self.run, self.listing, self._advice, self._image_root = run, listing, advice, image_root
        self.names = self._names_of(listing)

    def find_where_they_were(self, split: Split, source: Source, look: Look | None) -> Found:
        """Return the validation images, where the data are those that the run names.

        Images that have their names and other pixels are the run's all the same, with a note.

        Raises:
            DataError: Some are not there any more.
        """
        position = {name: index for index, name in enumerate(names_of(split, source))}
        by_name = [position.get(name) for name in self.names]
        hashes = self.listing.hashes
        if None not in by_name:
            found = _chosen(split, by_name)
            return Found(found, "", () if look is None or hashes is None else self._changed(hashes, look(found)))
        if look is not None and hashes is not None:
            by_content = self._by_content(hashes, split, source, look)
            if None not in by_content:
                return Found(_chosen(split, by_content), "by content: some have other names now")
        gone = [name for name, index in zip(self.names, by_name, strict=True) if index is None]
        raise DataError(
            f"{len(gone)} of the {len(by_name)} images listed in {self.run / 'validation.json'} are no longer in the "
            f"data, {gone[0]} first; expected the images the run was made with. {self._advice}"
        )

    def find(self, split: Split, source: Source, look: Look) -> Found:
        """Return the validation images among others, which somebody names.

        Raises:
            DataError: They are not all there.
        """
        hashes = self.listing.hashes
        position = {name: index for index, name in enumerate(names_of(split, source))}
        places = [position.get(name) for name in self.names]
        how = "by name; the run lists no hashes of their content"
        if hashes is not None:
            how = "by name and content"
            if None in places or look(_chosen(split, places)).fingerprints != list(hashes):
                places, how = self._by_content(hashes, split, source, look), "by content"
        lacking = [name for name, place in zip(self.names, places, strict=True) if place is None]
        if lacking:
            raise DataError(
                f"{source.spec} holds {len(places) - len(lacking):,} of the {len(places):,} images that {self.run} "
                f"validated on, found {how.partition(';')[0]}, and lacks {lacking[0]}; expected all of them. Without "
                "--split every image is taken."
            )
        return Found(_chosen(split, places), how)

    def _by_content(self, hashes: Sequence[str], split: Split, source: Source, look: Look) -> list[int | None]:
        """Return where in ``split`` each validation image is, each place once, one of its own name first."""
        names, there = names_of(split, source), look(split).fingerprints
        position = {name: index for index, name in enumerate(names)}
        found: list[int | None] = []
        for name, digest in zip(self.names, hashes, strict=True):
            place = position.get(name)
            found.append(place if place is not None and there[place] == digest else None)
        taken, free = set(found), defaultdict(list)
        for index in reversed(range(len(there))):
            if index not in taken:
                free[there[index]].append(index)
        return [
            free[digest].pop() if place is None and free[digest] else place
            for place, digest in zip(found, hashes, strict=True)
        ]

    def without_them(
        self, split: Split, source: Source, look: Look | None, *, data: str | None = None
    ) -> tuple[Split, int]:
        """Return ``split``, called ``train``, less what is not for training, and how many images that was.

        Those are the images that the run validated on, those that it left untouched, and those that ``--clean`` left
        out. An image that is also a training image, pixel for pixel, stays.

        Args:
            split: Training images, and others.
            source: Where they are from.
            look: Looks at them; None goes by names.
            data: Spec of ``source`` as the run has it, so that names of other sources do not count; None counts all.
        """
        listed = [one for one in (self.listing, *self._others) if data in (None, one.data)]
        if not listed:
            return split, 0
        if look is None or any(one.hashes is None for one in listed):
            held_out = {name for one in listed for name in self._names_of(one)}
            kept = [index for index, name in enumerate(names_of(split, source)) if name not in held_out]
        else:
            there, known = look(split).fingerprints, {digest for one in listed for digest in one.hashes or ()}
            left_out = known & set(there)
            left_out -= trained_on(self.run, left_out) or set()
            kept = [index for index, digest in enumerate(there) if digest not in left_out]
        return split.select(kept, name="train"), len(split) - len(kept)

    def make_up(self, split: Split, look: Look) -> bool:
        """Return whether ``split`` holds all validation images, and besides them other images of the run only."""
        if self.listing.hashes is None:
            return False
        there, known = set(look(split).fingerprints) - {""}, set(self.listing.hashes)
        others = there - known - {digest for one in self._others for digest in one.hashes or ()}
        return known <= there and others == (trained_on(self.run, others) if others else set())

    @property
    def _others(self) -> list[Listed]:
        """The images that the run neither validated nor trained on."""
        return [one for one in (self.listing.untouched, self.listing.left_out) if one is not None]

    def _names_of(self, listed: Listed) -> Sequence[str]:
        return names_below_root(listed.images, listed.data, image_root=self._image_root)

    def _changed(self, hashes: Sequence[str], scan: Scan) -> tuple[str, ...]:
        places = [
            index
            for index, (digest, then) in enumerate(zip(scan.fingerprints, hashes, strict=True))
            if digest not in ("", then)
        ]
        if not places:
            return ()
        return (
            f"{len(places):,} of the {len(hashes):,} {self.listing.called} images have other pixels than when the run "
            f"was made, {self.names[places[0]]} first: they were changed, or this version of Pillow decodes them "
            "otherwise.",
        )


def _chosen(split: Split, places: Sequence[int | None]) -> Split:
    return split.select([place for place in places if place is not None], name="val")


def names_of(split: Split, source: Source) -> list[str]:
    """Return the names of a split's images from where their source lies."""
    return names_below_root(split.image_names(), source.spec, image_root=source.options.image_root)
