"""What may be in memory together, and how long a failed load rests."""

from __future__ import annotations

import pytest

from tlserve.core.errors import Unavailable
from tlserve.serving.limits import Limits, Rests


@pytest.mark.parametrize(
    ("limits", "others", "wanted", "obstacle"),
    [
        (Limits(), [100] * 1000, 100, None),
        (Limits(max_backbones=2), [], 1, None),
        (Limits(max_backbones=2), [1], 1, None),
        (Limits(max_backbones=2), [1, 1], 1, "max_backbones"),
        (Limits(memory_bytes=100), [], 500, None),
        (Limits(memory_bytes=100), [50], 50, None),
        (Limits(memory_bytes=100), [50], 51, "memory_limit_mb"),
        (Limits(max_backbones=1, memory_bytes=100), [50], 51, "max_backbones"),
    ],
)
def test_who_is_let_in(limits: Limits, others: list[int], wanted: int, obstacle: str | None) -> None:
    assert limits.obstacle(others, wanted) == obstacle


@pytest.mark.parametrize(
    ("limits", "resident", "kept"),
    [
        (Limits(), [100] * 1000, True),
        (Limits(max_backbones=2), [1, 1], True),
        (Limits(max_backbones=2), [1, 1, 1], False),
        (Limits(memory_bytes=100), [50, 50], True),
        (Limits(memory_bytes=100), [50, 51], False),
    ],
)
def test_who_may_stay_together(limits: Limits, resident: list[int], kept: bool) -> None:
    assert limits.kept(resident) is kept


def test_a_failed_load_rests_longer_each_time_up_to_a_minute_and_success_forgets() -> None:
    now = 0.0
    rests = Rests(lambda: now)
    lengths = []
    for _ in range(8):
        rests.failed("a", "broken")
        began = now
        with pytest.raises(Unavailable, match="broken"):
            rests.check("a")
        rests.check("b")
        while rests.resting("a"):
            now += 0.5
        lengths.append(now - began)
        rests.check("a")
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]
    rests.loaded("a")
    rests.failed("a", "broken")
    now += 1
    rests.check("a")
