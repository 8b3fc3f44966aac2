"""Fine-tuning: a backbone, pictures and their classes come in; a tuned backbone comes out.

Trainer only, in a process of its own: it imports torch. What was tuned is a `Backbone`, which the caller
makes a build of, extracts rows through and fits a head on.
"""

from tlserve.tuning.activations import Budget, TuningCancelled
from tlserve.tuning.backbone import TunedBackbone
from tlserve.tuning.checkpoint import EpochResult
from tlserve.tuning.cost import Estimate, estimate
from tlserve.tuning.lesson import Lesson, validation_slice
from tlserve.tuning.pictures import Pictures
from tlserve.tuning.run import FineTuned, TuneReport, TuningImage, fine_tune
from tlserve.tuning.train import Tuned, tune

__all__ = [
    "Budget",
    "EpochResult",
    "Estimate",
    "FineTuned",
    "Lesson",
    "Pictures",
    "TuneReport",
    "Tuned",
    "TunedBackbone",
    "TuningCancelled",
    "TuningImage",
    "estimate",
    "fine_tune",
    "tune",
    "validation_slice",
]
