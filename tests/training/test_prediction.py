"""How long training will take, told before it begins."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.training.support_training import TAPS
from tlserve.core.plan import HeadKind
from tlserve.training import Examples, measured_speed, predicted_seconds, train

SIZES = {"n_images": 2_000, "n_features": 1_280, "n_classes": 10}


def test_more_of_anything_takes_longer() -> None:
    def seconds(kinds: list[HeadKind] | None = None, **more: float) -> float:
        sizes = SIZES | {"flops_per_second": 3e10} | more
        return predicted_seconds(kinds or [HeadKind.RIDGE], **sizes)  # type: ignore[arg-type]

    usual = seconds()
    assert seconds(n_images=4_000) > usual
    assert seconds(n_features=2_000) > usual
    assert seconds(n_views=4_000) > usual
    assert seconds([HeadKind.RIDGE, HeadKind.SOFTMAX]) > usual + 0.1
    assert seconds(flops_per_second=6e10) < usual
    assert seconds([HeadKind.SOFTMAX], n_classes=100) > seconds([HeadKind.SOFTMAX])


def test_a_million_images_are_reckoned_without_holding_them() -> None:
    seconds = predicted_seconds(
        [HeadKind.SOFTMAX], n_images=1_000_000, n_features=1_280, n_classes=100, flops_per_second=3e10
    )
    assert seconds > 60


@pytest.mark.parametrize("kind", [HeadKind.SOFTMAX, HeadKind.RIDGE])
def test_it_is_about_what_it_takes(kind: HeadKind) -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 5, 800)
    centres = random.normal(0, 0.3, (5, 1_280))
    rows = (centres[targets] + random.normal(size=(800, 1_280))).astype(np.float32)
    examples = Examples.of(rows, [f"class {target}" for target in targets])
    began = time.process_time()
    train(examples, TAPS, kinds=[kind])
    # Processor time: other work on the machine is not of this.
    took = time.process_time() - began
    found = predicted_seconds(
        [kind], n_images=800, n_features=1_280, n_classes=5, flops_per_second=measured_speed()
    )
    assert took / 8 < found < took * 12
