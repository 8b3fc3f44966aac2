"""A head whose certainty is taken from chosen images, where cross-validation on its rows would flatter it.

The rows of a fine-tuned backbone know the images that it was tuned on: folds among them say 99 % where new
images give 93. What is told of such a head comes from the images that only validated the fine-tuning.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from tlserve.core.head import apply, logits
from tlserve.core.types import Features
from tlserve.training.arrays import Ints
from tlserve.training.calibration import calibrate
from tlserve.training.trained import OutOfFold, TrainedHead


def judged_on(trained: TrainedHead, rows: Features, targets: Ints, images: Ints) -> TrainedHead:
    """The same head with its temperature, and all that is told of its certainty, from these images.

    rows: (n, n_features) raw, of images that neither the backbone nor the head has learnt from; targets:
    (n,) their classes, columns of the head's labels; images: (n,) their positions among the training images.
    """
    head = trained.head
    calibration = calibrate(logits(head, rows), targets, link=head.link, usual=head.temperature)
    head = replace(head, temperature=calibration.temperature)
    answers = OutOfFold(images, apply(head, rows), targets)
    report = trained.report | {
        "cv_accuracy": answers.accuracy,
        "temperature": calibration.temperature,
        "out_of_fold": asdict(calibration),
        "n_judged": len(rows),
    }
    return replace(trained, head=head, report=report, out_of_fold=answers)
