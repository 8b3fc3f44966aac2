"""What the trainer tells of a comparison of backbones, for whoever asked for it.

A comparison is not a pass: the model's own phase, its message and its version stay what they are.
"""

from __future__ import annotations

import json
import time

from tlserve.app.board import in_words
from tlserve.core.errors import NotReady
from tlserve.core.messages import Compared, Progress
from tlserve.rpc.backend import Comparison, ModelEvent


def comparison(told: Compared) -> Comparison:
    """Raises NotReady with the reason when there is none: too few classes, say, or a full disk."""
    if told.error is not None:
        raise NotReady(told.error)
    return Comparison(json.loads(told.json), told.page)


def comparison_event(progress: Progress) -> ModelEvent:
    """How far it is; `phase` is the comparison's, not the model's."""
    return ModelEvent(
        model=progress.model,
        at=time.time(),
        kind="comparison",
        message=in_words(progress),
        phase=progress.phase.value,
        done=progress.done,
        total=progress.total,
        per_second=progress.per_second,
        seconds_left=progress.seconds_left,
    )
