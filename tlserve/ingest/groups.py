"""Near duplicates: images whose fingerprints differ by at most 2 bits share a group, hence a side.

Groups are stars, not chains: each has one leading fingerprint, whose hex digits are the group's name,
and members lie within `MAX_BITS` of it. So a group cannot creep over a whole class of similar pictures,
and a stored name is all that is needed to let a later image join.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np

MAX_BITS = 2
FINGERPRINT_BITS = 64
FEWEST_TELLING_BITS = 4
"""A fingerprint with fewer ones (or zeros) than this belongs to a nearly flat picture and says nothing."""

_DIFFERENCES = np.array(
    [
        sum(1 << bit for bit in bits)
        for n_bits in range(MAX_BITS + 1)
        for bits in combinations(range(FINGERPRINT_BITS), n_bits)
    ],
    dtype=np.uint64,
)
"""All 2,081 ways to differ, the fewest bits first."""
_ALL_BITS = (1 << FINGERPRINT_BITS) - 1
_NAME_LENGTH = FINGERPRINT_BITS // 4


class NearDuplicates:
    """Names the group of each image, one after the other; order matters only among new images."""

    def __init__(self, groups: Iterable[str] = ()) -> None:
        """`groups`: the names given out so far; names of images on their own are passed over."""
        self._leaders = {int(name, 16) for name in groups if len(name) == _NAME_LENGTH}

    def group_of(self, digest: str, fingerprint: int) -> str:
        """The group of an image; `digest` names the group of an image whose fingerprint says nothing.

        fingerprint: 64 bits, signed or not.
        2,081 set look-ups (60 microseconds), whatever the number of images: no index to build.
        """
        fingerprint &= _ALL_BITS
        ones = fingerprint.bit_count()
        if not FEWEST_TELLING_BITS <= ones <= FINGERPRINT_BITS - FEWEST_TELLING_BITS:
            return digest
        near = (_DIFFERENCES ^ np.uint64(fingerprint)).tolist()
        leader = fingerprint
        if self._leaders.isdisjoint(near):
            self._leaders.add(leader)
        else:
            leader = next(other for other in near if other in self._leaders)
        return f"{leader:0{_NAME_LENGTH}x}"
