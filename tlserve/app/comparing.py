"""What the trainer tells of a comparison of backbones, for whoever asked for it."""

from __future__ import annotations

import json

from tlserve.core.errors import NotReady
from tlserve.core.messages import Compared
from tlserve.rpc.backend import Comparison


def comparison(told: Compared) -> Comparison:
    """Raises NotReady with the reason when there is none: too few classes, say, or a full disk."""
    if told.error is not None:
        raise NotReady(told.error)
    return Comparison(json.loads(told.json), told.page)
