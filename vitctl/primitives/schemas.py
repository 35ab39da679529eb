"""What the schemas of foreign documents are made of, for ``vitctl.primitives.documents``.

Types are strict: a number is no text, true is no number. Keys that a schema does not name are left alone.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, InstanceOf


class Schema(BaseModel):
    """The keys of a document, or of an object in it, that are read; each a field with its type."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


Name = InstanceOf[str]
"""A name of a file, a class or a model. It may hold bytes that are no UTF-8, which pydantic's own text may not."""

Names = Annotated[list[Name], Field(fail_fast=True)]  # a report on each of five million wrong ones takes gigabytes
"""Names in order."""

Count = Annotated[int, Field(gt=0, lt=2**31)]
"""A number of things, at least one."""

NotNegative = Annotated[int, Field(ge=0)]
"""A whole number of things of which there may be none."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A fraction, 0-1."""

Positive = Annotated[float, Field(gt=0)]
"""A number above zero."""
