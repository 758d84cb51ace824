"""The hypervolume of a front, by which tests compare searches."""

from collections.abc import Iterable, Sequence


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the area that two-dimensional ``points`` dominate above ``reference``; larger coordinates are better.

    Raises:
        ValueError: A point has other than two coordinates.
    """
    area, height = 0.0, reference[1]
    for point in sorted((tuple(point) for point in points), reverse=True):
        if len(point) != 2:
            raise ValueError(f"hypervolume: expected points of two coordinates, got {point}")
        if point[0] > reference[0] and point[1] > height:
            area += (point[0] - reference[0]) * (point[1] - height)
            height = point[1]
    return area
