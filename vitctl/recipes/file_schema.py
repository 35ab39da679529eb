"""What a recipe file may hold beside its settings; apart, as help pages need no pydantic."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from vitctl.primitives.schemas import Count, Schema
from vitctl.recipes.published import TOP1

VariantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""What stands after the colon of ``--recipe NAME:VARIANT``."""

Text = Annotated[str, Field(min_length=1)]


class PublishedEntry(Schema):
    """A ``[[published]]`` of a recipe file; see ``vitctl.recipes.published``."""

    model_config = ConfigDict(extra="forbid")

    model: Text
    pretrained: str = ""
    data: Text
    image_size: Count
    percent: Annotated[float, Field(ge=0, le=100)]
    metric: Text = TOP1
    source: Text
    variant: str = ""


class FileDocument(Schema):
    """A recipe file; its settings are what is left."""

    model_config = ConfigDict(extra="allow")

    variants: dict[VariantName, dict[str, Any]] = {}
    published: list[PublishedEntry] = []
