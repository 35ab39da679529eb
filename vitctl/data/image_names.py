"""What images are called where their data may move."""

import os
from collections.abc import Sequence


def names_below_root(names: Sequence[str], spec: str, *, image_root: str | None) -> list[str]:
    """Return the names of a source's images from where the source lies: its image root, itself, or its folder.

    Args:
        names: As ``Split.image_name`` gives them; one that lies elsewhere, or is told from there already, stays.
        spec: The source's spec, with absolute paths.
        image_root: That of its options.
    """
    places = [place for place in (image_root, spec, os.path.dirname(spec)) if place and os.path.isabs(place)]
    roots = [os.path.join(place, "") for place in places]
    root = next((root for root in roots if any(name.startswith(root) for name in names[:1])), "")
    return [name.removeprefix(root) for name in names]
