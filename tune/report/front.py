"""The Pareto front: trials that no other beats at the same or a lower cost."""

import math
from collections.abc import Sequence


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Places of the trials that are not dominated, cheapest first.

    One dominates another if it costs no more and scores no less, and is better
    in one of the two; so twins both stay. What is not finite takes no part.
    """
    known = [
        place
        for place, pair in enumerate(zip(costs, scores, strict=True))
        if all(map(math.isfinite, pair))
    ]

    def dominates(one: int, other: int) -> bool:
        no_worse = costs[one] <= costs[other] and scores[one] >= scores[other]
        return no_worse and (costs[one], scores[one]) != (costs[other], scores[other])

    front = [place for place in known if not any(dominates(other, place) for other in known)]
    return sorted(front, key=lambda place: (costs[place], place))
