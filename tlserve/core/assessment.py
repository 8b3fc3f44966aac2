"""What is measured before a strategy is chosen, and what the numbers say by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tlserve.core.plan import Strategy


@dataclass(frozen=True, slots=True)
class TapScore:
    """How well a linear model separates the classes by the columns of some taps. Shares lie in [0, 1]."""

    taps: tuple[str, ...]
    """From shallow to deep."""
    n_features: int
    accuracy: float
    """Out of fold."""
    standard_error: float
    even_accuracy: float
    """The mean over classes of the share that is right, when all classes are held equally likely."""
    log_me: float
    """Evidence per image; higher is better, comparable only within one assessment."""
    gain: float = 0.0
    """Accuracy above that of the last tap alone, on the same images."""
    gain_standard_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the lines are drawn; the line between few and many images is `Wish.large_images`."""

    least_gain: float = 0.005
    """An earlier set of taps must be right this much more often than the last tap."""
    least_errors: float = 1.5
    """And by this many standard errors of the paired difference: chance does that once in fifteen times."""
    least_errors_without_last: float = 3.0
    """The same for a set that leaves the last tap out: a wrong pick costs more there."""
    similar_from: float = 0.95
    """From this similarity on, the backbone knows such pictures, whatever earlier taps could still add."""
    near_chance: float = 0.1
    """A tap that covers less of the way from guessing to always right knows nothing of the classes."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """One model's images as one backbone sees them."""

    n_images: int
    """Training images."""
    n_classes: int
    chance: float
    """The share of the largest class: what always guessing it would reach."""
    scores: tuple[TapScore, ...]
    """The last tap alone first, then every other set that was compared."""
    trainable: bool = True
    why_untrainable: str = "the backbone cannot be trained"
    estimated_seconds: Mapping[Strategy, float] = field(default_factory=dict)
    """How long fine-tuning would take here; a strategy that is missing was not estimated."""

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("an assessment needs a score of the last tap at least")
        if not 0 < self.chance < 1:
            raise ValueError(f"chance must lie between 0 and 1, not {self.chance}")

    @property
    def last(self) -> TapScore:
        return self.scores[0]

    @property
    def best(self) -> TapScore:
        """The most accurate set; of equals the narrowest."""
        return max(self.scores, key=lambda score: (score.accuracy, -score.n_features))

    @property
    def rival(self) -> TapScore | None:
        """The most accurate set other than the last tap alone; None where the backbone has one tap."""
        others = self.scores[1:]
        return max(others, key=lambda score: (score.accuracy, -score.n_features)) if others else None

    @property
    def even_accuracy(self) -> float:
        """The best of all sets, all classes held equally likely."""
        return max(score.even_accuracy for score in self.scores)

    @property
    def even_chance(self) -> float:
        """What guessing reaches there."""
        return 1 / self.n_classes

    @property
    def similarity(self) -> float:
        """How much of what any set of taps knows of the classes the last tap alone knows, in [0, 1].

        To know is to be right more often than guessing; 0 where no tap is.
        """
        known = self.best.accuracy - self.chance
        return min(max((self.last.accuracy - self.chance) / known, 0.0), 1.0) if known > 0 else 0.0

    def better(self, thresholds: Thresholds) -> TapScore | None:
        """The best of the sets that beat the last tap by enough, and by more than chance; or None."""
        last = self.last.taps[-1]

        def is_sure(score: TapScore) -> bool:
            keeps_last = last in score.taps
            errors = thresholds.least_errors if keeps_last else thresholds.least_errors_without_last
            return score.gain >= max(thresholds.least_gain, errors * score.gain_standard_error)

        sure = [score for score in self.scores[1:] if is_sure(score)]
        return max(sure, key=lambda score: (score.accuracy, -score.n_features)) if sure else None

    def knows_nothing(self, thresholds: Thresholds) -> bool:
        """Whether every set is near guessing, however unequal the classes are in size."""
        return self.even_accuracy - self.even_chance < thresholds.near_chance * (1 - self.even_chance)
