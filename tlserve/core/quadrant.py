"""In which of the four quadrants a model's images lie, and what each quadrant asks for; no prose yet.

Similar: the backbone's last tap keeps nearly all that its taps know of these classes. Different: earlier taps
know clearly more, or no tap knows more than guessing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlserve.core.assessment import Assessment, TapScore, Thresholds
from tlserve.core.plan import Depth, Strategy, Wish

TUNING = frozenset({Strategy.FINETUNE, Strategy.FINETUNE_ALL, Strategy.SCRATCH})
"""What needs a backbone that can be trained, and time."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question: what to do with these images, this backbone, these wishes, in a pass of this depth."""

    seen: Assessment
    wish: Wish
    thresholds: Thresholds
    depth: Depth

    @property
    def large(self) -> bool:
        return self.seen.n_images >= self.wish.large_images

    @property
    def better(self) -> TapScore | None:
        """The set of taps that beats the last tap by enough, and by more than chance."""
        return self.seen.better(self.thresholds)

    @property
    def lost(self) -> bool:
        """No tap knows anything of these classes."""
        return self.seen.knows_nothing(self.thresholds)

    @property
    def different(self) -> bool:
        apart = self.seen.similarity < self.thresholds.similar_from
        return self.lost or (apart and self.better is not None)

    def wanted(self) -> tuple[Strategy, ...]:
        """What the quadrant asks for, then what stands in for it where that cannot be done; a head can."""
        on_rows = (Strategy.TAPS, Strategy.HEAD) if self.different or self.better else (Strategy.HEAD,)
        if not self.large:
            return on_rows
        if not self.different:
            return (Strategy.FINETUNE, *on_rows)
        fresh = (Strategy.SCRATCH,) if self.lost else ()
        return (*fresh, Strategy.FINETUNE_ALL, Strategy.FINETUNE, *on_rows)

    def taps(self, strategy: Strategy) -> tuple[str, ...]:
        """What the head of this strategy reads; after fine-tuning it is the last tap."""
        chosen = (self.better or self.seen.rival) if strategy is Strategy.TAPS else None
        return (chosen or self.seen.last).taps

    def minutes(self, strategy: Strategy) -> float | None:
        """How long it was estimated to take."""
        seconds = self.seen.estimated_seconds.get(strategy)
        return None if seconds is None else seconds / 60

    def over_budget(self, strategy: Strategy) -> bool:
        minutes = self.minutes(strategy)
        return minutes is not None and minutes > self.wish.tune.budget_minutes
