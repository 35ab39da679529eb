"""What was settled where the user left it open, and why: headers show both."""

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Decision(NamedTuple, Generic[T]):
    """A value and why it is that."""

    value: T
    reason: str
