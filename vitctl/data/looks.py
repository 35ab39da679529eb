"""Images that are looked at once, however often somebody asks: to be found again, to be checked, to be compared."""

from dataclasses import dataclass, field

from vitctl.conversation import Conversation
from vitctl.data.scan import Look, Scan, num_scan_threads, scan_images
from vitctl.data.source import Images, Split
from vitctl.primitives.processes import ALONE, Processes


@dataclass
class _Seen:
    """What was seen of some images: by row a look or the reason why there is none, and the stamp before it."""

    images: Images
    rows: dict[int, tuple[Look | str, str]] = field(default_factory=dict)


class Looks:
    """Looks at images, and keeps in memory what was seen.

    Args:
        conversation: Shows progress.
        processes: Who shares the images out.
    """

    def __init__(self, conversation: Conversation, processes: Processes = ALONE) -> None:
        self._conversation, self._processes = conversation, processes
        self._seen: dict[int, _Seen] = {}

    def scan(self, split: Split) -> Scan:
        """Return what ``scan_images`` does; images of this source that were looked at before are not again."""
        seen = self._seen.setdefault(id(split.images), _Seen(split.images))
        rows = split.rows.tolist()
        new = [position for position, row in enumerate(rows) if row not in seen.rows]
        if new:
            part = split if len(new) == len(rows) else split.select(new)
            scan = scan_images(
                part, num_threads=num_scan_threads(), conversation=self._conversation, processes=self._processes
            )
            for position, (row, look) in enumerate(zip(part.rows.tolist(), scan.looks, strict=True)):
                seen.rows[row] = (scan.bad[position] if look is None else look, scan.stamps[position])
            if part is split:
                return scan
        found = [seen.rows[row] for row in rows]
        return Scan(
            [None if isinstance(look, str) else look for look, _ in found],
            {position: look for position, (look, _) in enumerate(found) if isinstance(look, str)},
            [stamp for _, stamp in found],
        )
