"""Groups of things that are near to each other, without chains."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


def near_groups(
    links: Places, similarities: NDArray[np.float32], rank: Places, is_near: Callable[[int, Places], NDArray[np.bool_]]
) -> list[list[int]]:
    """Groups of two or more places, the first of each being the one that the others are near to.

    `links` (P, 2) are pairs of near places with their similarities; `rank` says of each place how soon it comes among
    equals; is_near(first, others) tells of any places whether they are near to another. It is not asked about pairs
    that are linked, of which it may think otherwise by rounding.

    Connected components would chain: a film is one group though its first and last picture have nothing in common. So a
    group grows along the links, but takes only what is near to its first itself (the leader algorithm of Hartigan,
    'Clustering algorithms', 1975). Firsts are those with most links. What is left alone, its neighbours all being in
    other groups, joins its nearest neighbour's: at most one step away from what is near to the first.
    """
    neighbours = _Neighbours(links, similarities, len(rank))
    group_of: dict[int, int] = {}
    groups: list[list[int]] = []
    alone: list[int] = []
    for first in neighbours.most_linked(rank):
        if first in group_of:
            continue
        group = _grown(first, neighbours, group_of, is_near)
        if len(group) == 1:
            alone.append(first)
            continue
        group_of |= dict.fromkeys(group, len(groups))
        groups.append(group)
    joining = [(place, next(near for near in neighbours.nearest_first(place) if near in group_of)) for place in alone]
    for place, near in joining:
        groups[group_of[near]].append(place)
    return groups


def _grown(
    first: int,
    neighbours: "_Neighbours",
    group_of: dict[int, int],
    is_near: Callable[[int, Places], NDArray[np.bool_]],
) -> list[int]:
    edge = sorted(near for near in neighbours.nearest_first(first) if near not in group_of)
    group, seen = [first, *edge], {first, *edge}
    while edge:
        reached = sorted({near for place in edge for near in neighbours.nearest_first(place)} - seen)
        reached = [place for place in reached if place not in group_of]
        seen.update(reached)
        edge = np.array(reached, np.int64)[is_near(first, np.array(reached, np.int64))].tolist() if reached else []
        group += edge
    return group


class _Neighbours:
    """The links of each place."""

    def __init__(self, links: Places, similarities: NDArray[np.float32], count: int) -> None:
        ends = np.concatenate([links, links[:, ::-1]])
        order = np.lexsort((ends[:, 1], -np.concatenate([similarities, similarities]), ends[:, 0]))
        self._others = ends[order, 1]
        self._starts = np.searchsorted(ends[order, 0], np.arange(count + 1))

    def nearest_first(self, place: int) -> Sequence[int]:
        others: list[int] = self._others[self._starts[place] : self._starts[place + 1]].tolist()
        return others

    def most_linked(self, rank: Places) -> Iterator[int]:
        """Places that have links, those with most first, then by rank."""
        counts = np.diff(self._starts)
        order = np.lexsort((rank, -counts))
        yield from order[: int((counts > 0).sum())].tolist()
