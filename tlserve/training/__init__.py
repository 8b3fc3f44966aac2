"""From bottleneck rows to a head: softmax regression, its penalty and temperature chosen by folds.

Trainer only. Rows and labels come in, a `core.head.Head` and a report come out; no image, file or network
is touched here.
"""

from tlserve.training.fit import TrainedHead, train_softmax
from tlserve.training.softmax import TrainingCancelled

__all__ = ["TrainedHead", "TrainingCancelled", "train_softmax"]
