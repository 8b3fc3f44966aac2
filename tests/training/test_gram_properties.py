"""Sums of products under any history of additions, removals and relabellings."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.test_gram import N_FEATURES, rows_of
from tlserve.training.gram import Gram
from tlserve.training.scaling import Scaling

POOL = rows_of(200, 5)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "relabel"]),
        st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=60, unique=True),
        st.sampled_from("abcde"),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None, database=None)
@given(steps=STEPS)
def test_any_history_gives_the_sums_of_the_rows_that_are_left(
    steps: list[tuple[str, list[int], str]],
) -> None:
    scaling = Scaling.of(POOL)
    gram = Gram(scaling)
    there: dict[int, str] = {}
    for what, chosen, label in steps:
        new = [at for at in chosen if at not in there]
        known = [at for at in chosen if at in there]
        if what == "add":
            gram.add(POOL[new], [label] * len(new))
            there |= dict.fromkeys(new, label)
            continue
        gram.remove(POOL[known], [there.pop(at) for at in known])
        if what == "relabel":
            gram.add(POOL[known], [label] * len(known))
            there |= dict.fromkeys(known, label)
    left = sorted(there)
    anew = Gram.rebuilt(scaling, [(POOL[left], [there[at] for at in left])], gram.weights)
    assert gram.counts == anew.counts
    assert gram.names == tuple(sorted(set(there.values())))
    size = np.sqrt(np.diag(anew.matrix))
    relative = np.abs(gram.matrix - anew.matrix) / np.maximum(np.outer(size, size), 1e-9)
    assert relative.max(initial=0) <= 1e-6 or not left
    names = tuple("abcde")
    assert np.abs(gram.cross(names) - anew.cross(names)).max() <= 1e-6 * max(1.0, size.max())
    assert gram.matrix.shape == (N_FEATURES + 1, N_FEATURES + 1)
