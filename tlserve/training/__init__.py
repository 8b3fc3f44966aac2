"""From bottleneck rows to a head: kinds of heads compared, their settings and temperature chosen by folds.

Beside it what rows tell of the data: which taps know the classes, what more images would bring, which labels
look wrong. Trainer only. Rows and labels come in, heads and numbers come out; no image, file or network is
touched here.
"""

from tlserve.training.examples import COMFORTABLE_BYTES, Examples, StreamedExamples
from tlserve.training.fit import train, train_softmax
from tlserve.training.instant import InstantState
from tlserve.training.judged import judged_on
from tlserve.training.learning_curve import LearningCurve, learning_curve
from tlserve.training.linear import TrainingCancelled
from tlserve.training.prediction import measured_speed, predicted_seconds
from tlserve.training.rows import ArrayRows, RowSource
from tlserve.training.similarity import chance_level, images_to_score, score_taps
from tlserve.training.steady import steady_accuracy
from tlserve.training.suspects import likely_mislabelled
from tlserve.training.trained import OutOfFold, TrainedHead

__all__ = [
    "COMFORTABLE_BYTES",
    "ArrayRows",
    "Examples",
    "InstantState",
    "LearningCurve",
    "OutOfFold",
    "RowSource",
    "StreamedExamples",
    "TrainedHead",
    "TrainingCancelled",
    "chance_level",
    "images_to_score",
    "judged_on",
    "learning_curve",
    "likely_mislabelled",
    "measured_speed",
    "predicted_seconds",
    "score_taps",
    "steady_accuracy",
    "train",
    "train_softmax",
]
