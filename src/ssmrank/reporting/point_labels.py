"""Places labels beside the points of a figure so that they cover neither points nor each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_GAP = 9.0
"""Pixels between a point's centre and a label beside it."""

_RINGS = 40
"""Steps of half its height that are tried for a label above and below its point."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share an area."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def inside(self, frame: Box) -> bool:
        """Whether the box is completely in the frame."""
        return (
            self.left >= frame.left
            and self.right <= frame.right
            and self.bottom >= frame.bottom
            and self.top <= frame.top
        )


def place_labels(
    anchors: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], marks: Sequence[Box], frame: Box
) -> list[Box]:
    """A box for each label, in pixels; deterministic.

    Labels are placed from the lowest anchor to the highest, each at the first free place of `_places` in the frame.
    Where no place is free, a label takes the first place in the frame and covers something.

    Args:
        anchors: (x, y) of the point that each label belongs to.
        sizes: (width, height) of each label.
        marks: points and lines that labels must not cover.
        frame: the box in which labels must stay.
    """
    taken = list(marks)
    placed: dict[int, Box] = {}
    for number in sorted(range(len(anchors)), key=lambda number: anchors[number][::-1]):
        boxes = [box for box in _places(anchors[number], sizes[number]) if box.inside(frame)]
        free = (box for box in boxes if not any(box.overlaps(other) for other in taken))
        placed[number] = next(free, boxes[0] if boxes else next(_places(anchors[number], sizes[number])))
        taken.append(placed[number])
    return [placed[number] for number in range(len(anchors))]


def _places(anchor: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    """Places around an anchor: near before far, and at the same distance right before left."""
    (x, y), (width, height) = anchor, size
    for ring in range(_RINGS):
        for rise in dict.fromkeys((ring * height / 2, -ring * height / 2)):
            reach = _GAP if ring < 2 else 0.0
            lefts = [x + reach, x - width - reach] if ring < 2 else [x - width / 2, x + _GAP, x - width - _GAP]
            for left in lefts:
                yield Box(left, y + rise - height / 2, left + width, y + rise + height / 2)


def nearest(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that is nearest to another point."""
    return min(max(point[0], box.left), box.right), min(max(point[1], box.bottom), box.top)


def is_far(box: Box, point: tuple[float, float]) -> bool:
    """Whether a label is so far from its point that it needs a line to it."""
    return math.dist(nearest(box, point), point) > 2 * _GAP
