"""Whether augmented views are kept: unless they do harm."""

from __future__ import annotations

import numpy as np
import pytest

from tlserve.core.head import Dense, Head
from tlserve.core.plan import HeadKind
from tlserve.pipeline.learning import gained
from tlserve.training import OutOfFold, TrainedHead

N = 100


def trained(right: int, sureness: float = 0.9, *, shift: int = 0, images: range = range(N)) -> TrainedHead:
    """A head that was right on `right` of 100 images, out of fold; shift: on other ones."""
    hits = np.roll(np.arange(N) < right, shift)[list(images)]
    sure = [sureness, 1 - sureness]
    probabilities = np.where(hits[:, None], sure, sure[::-1]).astype(np.float32)
    head = Head(("a", "b"), ("features",), (Dense(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),))
    fold = OutOfFold(np.array(images), probabilities, np.zeros(len(images), np.intp))
    return TrainedHead(head, HeadKind.SOFTMAX, {}, fold)


@pytest.mark.parametrize(
    ("with_views", "kept"),
    [
        (trained(82), True),
        (trained(80), True),
        (trained(80, 0.8), True),
        (trained(80, 0.51), False),
        (trained(79, shift=10), True),
        (trained(70), False),
    ],
    ids=["better", "the same", "surer where it is right", "unsure", "worse by chance", "worse"],
)
def test_views_are_kept_unless_they_do_harm(with_views: TrainedHead, kept: bool) -> None:
    note = gained(trained(80), with_views)
    assert note["kept"] is kept
    assert ("learnt from" in note["reason"]) is kept


def test_fits_that_were_judged_on_different_samples_are_compared_on_what_they_share() -> None:
    note = gained(trained(80, images=range(0, 90)), trained(80, images=range(10, 100)))
    assert note["accuracy_with"] == note["accuracy_without"] == 70 / 80
    assert note["gain"] == 0
