"""A place in a writer's journal. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two lines: a segment's file name and an offset into it in bytes."""

    segment: str
    offset: int
