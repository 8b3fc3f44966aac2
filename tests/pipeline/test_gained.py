"""Whether augmented views are kept: unless they do harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlserve.core.head import Dense, Head
from tlserve.core.plan import HeadKind
from tlserve.pipeline.learning import gained
from tlserve.training import OutOfFold, TrainedHead

N = 100


def trained(right: int, nll: float, *, shift: int = 0) -> TrainedHead:
    """A head that was right on `right` of 100 images, out of fold; shift: on other ones."""
    hits = np.roll(np.arange(N) < right, shift)
    probabilities = np.where(hits[:, None], [0.9, 0.1], [0.1, 0.9]).astype(np.float32)
    head = Head(("a", "b"), ("features",), (Dense(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),))
    report: dict[str, Any] = {"out_of_fold": {"nll_after": nll}}
    return TrainedHead(
        head, HeadKind.SOFTMAX, report, OutOfFold(np.arange(N), probabilities, np.zeros(N, np.intp))
    )


@pytest.mark.parametrize(
    ("with_views", "kept"),
    [
        (trained(82, 0.5), True),
        (trained(80, 0.4), True),
        (trained(80, 0.6), False),
        (trained(79, 0.5, shift=10), True),
        (trained(70, 0.5), False),
    ],
    ids=["better", "equal, surer", "equal, less sure", "worse by chance", "worse"],
)
def test_views_are_kept_unless_they_do_harm(with_views: TrainedHead, kept: bool) -> None:
    note = gained(trained(80, 0.5), with_views)
    assert note["kept"] is kept
    assert ("learnt from" in note["reason"]) is kept
