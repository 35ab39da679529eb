"""What ``vitctl models`` returns: the names that ``--model`` takes, with a pattern also what is behind them."""

from dataclasses import dataclass, field

from vitctl.results.result import Result, left_out_if_none


@dataclass(frozen=True, repr=False)
class Tag(Result):
    """One set of pretrained weights of an architecture."""

    tag: str
    """timm's; empty for weights without one."""
    license: str | None
    """None where timm does not know it."""


@dataclass(frozen=True, repr=False)
class ModelEntry(Result):
    """An architecture; all but its name are None where only names were asked for."""

    name: str
    """timm's, or demo."""
    image_size: tuple[int, int] | None = field(default=None, metadata=left_out_if_none("pretrained"))
    """(H, W) px it was made for."""
    patch_size: tuple[int, int] | None = field(default=None, metadata=left_out_if_none("parameters"))
    """(H, W) px per token; None without a patch grid, like the two below, and where it was not built."""
    grid: tuple[int, int] | None = field(default=None, metadata=left_out_if_none("parameters"))
    """(h, w) patches."""
    tokens: int | None = field(default=None, metadata=left_out_if_none("parameters"))
    """Length of the sequence, prefix tokens included."""
    parameters: int | None = field(default=None, metadata=left_out_if_none())
    """Numbers in it, with its own head."""
    pretrained: tuple[Tag, ...] | None = field(default=None, metadata=left_out_if_none())
    """Its weights; where a pattern matches tags rather than the name, those."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ModelsResult(Result):
    """The models that match."""

    models: tuple[ModelEntry, ...]
    """The embedded demo first, then timm's in its order."""
