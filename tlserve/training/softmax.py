"""Names that moved to `arrays` and `linear`."""

from __future__ import annotations

from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.linear import TrainingCancelled

__all__ = ["Float32", "Float64", "Ints", "TrainingCancelled"]
