"""Certainty taken from images that neither backbone nor head has learnt from."""

from __future__ import annotations

import numpy as np
import pytest

from tlserve.core.head import apply
from tlserve.training import Examples, judged_on, train


def test_a_head_that_knows_its_rows_too_well_learns_its_doubts_from_others() -> None:
    random = np.random.default_rng(0)
    labels = np.array(["a", "b"])[np.arange(200) % 2]
    sign = np.where(labels == "a", 1.0, -1.0)
    # What it is taught on tells the classes apart without fault; new images do not.
    taught = (sign[:, None] * 3 + random.normal(size=(200, 4))).astype(np.float32)
    unlike = np.where(random.random(200) < 0.3, -1, 1)
    new = ((sign * unlike)[:, None] * 2 + random.normal(size=(200, 4))).astype(np.float32)
    trained = train(Examples.of(taught, labels.tolist()), ("features",))
    targets = (labels == "b").astype(np.intp)
    judged = judged_on(trained, new, targets, np.arange(200))
    assert trained.out_of_fold.accuracy == 1
    assert judged.out_of_fold.accuracy == pytest.approx(
        (apply(trained.head, new).argmax(axis=1) == targets).mean()
    )
    assert judged.head.temperature > 2 * trained.head.temperature
    assert judged.report["out_of_fold"]["nll_after"] < judged.report["out_of_fold"]["nll_before"]
    assert judged.report["n_judged"] == 200
    np.testing.assert_allclose(judged.out_of_fold.probabilities, apply(judged.head, new))
