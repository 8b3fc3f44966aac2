"""Which images probably lie in the wrong class: confident learning on answers of fits that had not seen them.

cleanlab does it. Its import takes a second or two (it brings pandas), so only who asks pays for it.
Source: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlserve.core.health import Suspect
from tlserve.core.types import Probabilities
from tlserve.training.arrays import Ints

RANKED_BY = "self_confidence"
"""The probability of the given class. With 5 % of the labels of the 5 flowers wrong (5 seeds), 78 % of the
equally many first are wrong ones; by the margin 75 %, weighted by entropy 71 %, by class thresholds 76 %."""


def likely_mislabelled(
    probabilities: Probabilities, targets: Ints, names: Sequence[str], *, most: int | None = None
) -> list[Suspect]:
    """The images that probably belong to another class, the most suspicious first.

    probabilities: (n_images, n_classes), of each image by a fit that had not seen it: out of fold, or of
    held-out images by the version's head. targets: (n_images,) their classes, the columns of `names`.
    How many there are is cleanlab's estimate of the wrong labels, which allows for a model that is surer of
    some classes than of others. most: at most so many are returned.
    None where there is nothing to compare: no images, or images of one class only.
    """
    if len(set(targets.tolist())) < 2:
        return []
    from cleanlab.count import num_label_issues

    n_wrong = int(num_label_issues(targets, probabilities))
    best = probabilities.argmax(axis=1)
    ranked = by_suspicion(probabilities, targets)
    # In a class of which the model is unsure, an image may rank low and yet be called what it is.
    suspicious = ranked[best[ranked] != targets[ranked]][:n_wrong].tolist()
    return [
        Suspect(
            position=position,
            given=names[targets[position]],
            suggested=names[best[position]],
            given_probability=float(probabilities[position, targets[position]]),
            suggested_probability=float(probabilities[position, best[position]]),
        )
        for position in suspicious[:most]
    ]


def by_suspicion(probabilities: Probabilities, targets: Ints) -> Ints:
    """All images, the most suspicious first: (n_images,) positions. Arguments as above."""
    if not len(targets):
        return np.empty(0, dtype=np.intp)
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(targets, probabilities, method=RANKED_BY)
    return np.argsort(quality, kind="stable")
