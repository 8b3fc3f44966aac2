"""What a process has freed is the system's again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tlserve.runtime.allocator import return_free_memory, return_large_blocks

MEASURE = """
import sys
import numpy as np
import psutil
from tlserve.runtime.allocator import return_free_memory, return_large_blocks

if sys.argv[1] == "with":
    assert return_large_blocks()
# The first large block that is freed is what raises glibc's own threshold.
np.ones(30 * 2**20, np.uint8)
rss = psutil.Process().memory_info
# Large blocks with small ones between them, which stay: a heap cannot shrink past those.
large, small = [], []
for _ in range(40):
    large.append(np.ones(4 * 2**20, np.uint8))
    small.append(np.ones(2**16, np.uint8))
held = rss().rss
large.clear()
if sys.argv[2] == "trim":
    return_free_memory()
print((held - rss().rss) / 2**20)
"""


def returned_mb(*how: str) -> float:
    told = subprocess.run([sys.executable, "-c", MEASURE, *how], capture_output=True, text=True, check=True)
    return float(told.stdout)


@pytest.fixture(autouse=True)
def glibc() -> None:
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        pytest.skip("glibc's own ways")


def test_large_blocks_go_back_as_they_are_freed() -> None:
    assert returned_mb("without", "leave") < 80
    assert returned_mb("with", "leave") > 150


def test_what_is_free_between_other_blocks_goes_back_when_asked() -> None:
    assert returned_mb("without", "trim") > 150


def test_both_may_be_called_at_any_time() -> None:
    assert return_large_blocks() in (True, False)
    assert return_free_memory() in (True, False)
