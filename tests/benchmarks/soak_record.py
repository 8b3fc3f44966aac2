"""What a soak saw, and what it comes to: counts, and memory as a straight line over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy import stats

from tests.benchmarks.checking_clients import Seen
from tests.benchmarks.installation import Reading

WARM_UP_SHARE, LONGEST_WARM_UP_SECONDS = 0.2, 600.0
"""Left out of the line: caches fill, allocators find their size."""
BUCKET_SECONDS = 60.0
"""Medians over so long are the points of the line (shorter where the run is)."""
FEWEST_POINTS = 12
MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    """Seconds since the start."""
    daemon: Reading
    trainer: Reading


@dataclass
class Soaked:
    """Everything that was counted so far."""

    samples: list[Sample] = field(default_factory=list)
    answered: int = 0
    refused: int = 0
    errors: int = 0
    examples: list[str] = field(default_factory=list)
    promotions: int = 0
    drops: int = 0
    asked: int = 0
    trained: set[int] = field(default_factory=set)
    """Versions of the trained model that answered."""
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)

    def error(self, words: str) -> None:
        self.errors += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(words)

    def count(self, seen: Seen) -> None:
        self.answered += seen.answered
        self.refused += seen.refused
        for words in seen.examples:
            self.error(words)
        self.errors += max(0, seen.errors - len(seen.examples))
        self.p50_ms.append(seen.p50_ms)
        self.p99_ms.append(seen.p99_ms)

    def told(self, minutes: float) -> dict[str, float | str]:
        """The figures, with what they should be; `minutes` were asked for."""
        for words in self.examples:
            print(f"  ! {words}")
        ran = self.samples[-1].at / 60 if self.samples else 0.0
        told: dict[str, float | str] = {
            f"minutes (of {minutes:g})": ran,
            "answers, each checked": float(self.answered + self.asked),
            "bad pictures, refused as they must be": float(self.refused),
            "errors (0)": float(self.errors),
            "head and backbone swaps": float(self.promotions),
            "drops; versions trained that answered": f"{self.drops}; {len(self.trained)}",
        }
        if self.p50_ms:
            told["p50 and p99 of a minute, median, ms"] = (
                f"{median(self.p50_ms):.1f}, {median(self.p99_ms):.1f}"
            )
        warm = [sample for sample in self.samples if sample.at >= self._warm_up_seconds()]
        if len(warm) >= FEWEST_POINTS:
            told |= self._memory(warm)
        return told

    def _warm_up_seconds(self) -> float:
        return min(LONGEST_WARM_UP_SECONDS, WARM_UP_SHARE * self.samples[-1].at) if self.samples else 0.0

    def _memory(self, warm: list[Sample]) -> dict[str, float | str]:
        hours = np.array([sample.at / 3600 for sample in warm])
        own = [sample.daemon for sample in warm]
        first, last = own[: len(own) // 4], own[-(len(own) // 4) :]
        told: dict[str, float | str] = {
            "daemon's memory (PSS), MB: first and last quarter after warm-up": (
                f"{median(r.pss_mb for r in first):.1f}, {median(r.pss_mb for r in last):.1f}"
            ),
            "daemon's memory, MB an hour (flat)": line(hours, [r.pss_mb for r in own]).in_words(),
            "trainer's memory, MB an hour": line(hours, [s.trainer.pss_mb for s in warm]).in_words(),
            "daemon's threads, fewest and most": _range([r.threads for r in own]),
            "daemon's open files, fewest and most": _range([r.files for r in own]),
            "daemon's open files, an hour": line(hours, [float(r.files) for r in own]).in_words(),
        }
        cpu = own[-1].cpu_seconds - own[0].cpu_seconds
        told["daemon's CPU, cores"] = cpu / max(1e-9, warm[-1].at - warm[0].at)
        return told


@dataclass(frozen=True, slots=True)
class Line:
    """value = a + slope * hours; uncertain: half of the 95 % interval of the slope."""

    slope: float
    uncertain: float
    share: float
    """Slope an hour over the mean value."""

    def in_words(self) -> str:
        verdict = "no slope to be told from 0" if abs(self.slope) <= self.uncertain else "a slope"
        return f"{self.slope:+.2f} +- {self.uncertain:.2f} ({self.share:+.2%} an hour; {verdict})"


def _range(values: list[int]) -> str:
    return f"{min(values)}, {max(values)}"


def line(hours: npt.NDArray[np.float64], values: list[float]) -> Line:
    """Through medians over a minute, or a twelfth of the run: neighbouring samples are not independent."""
    seconds = min(BUCKET_SECONDS, (hours[-1] - hours[0]) * 3600 / FEWEST_POINTS)
    buckets = ((hours - hours[0]) * 3600 // max(seconds, 1e-6)).astype(int)
    series = np.array(values)
    x = np.array([np.median(hours[buckets == bucket]) for bucket in np.unique(buckets)])
    y = np.array([np.median(series[buckets == bucket]) for bucket in np.unique(buckets)])
    fitted = stats.linregress(x, y)
    reach = float(stats.t.ppf(0.975, max(1, len(x) - 2))) * float(np.nan_to_num(fitted.stderr))
    return Line(float(fitted.slope), reach, float(fitted.slope) / max(1e-9, float(y.mean())))


@dataclass(frozen=True)
class Minute:
    """One line of the log."""

    number: int
    seen: Seen
    soaked: Soaked

    def in_words(self) -> str:
        seen, soaked = self.seen, self.soaked
        parts = [
            f"minute {self.number}: {seen.answered} answers",
            f"{seen.refused} bad refused",
            f"{soaked.errors} errors so far",
            f"p50 {seen.p50_ms:.1f} ms, p99 {seen.p99_ms:.1f} ms",
        ]
        if soaked.samples:
            own, trainer = soaked.samples[-1].daemon, soaked.samples[-1].trainer
            parts += [
                f"daemon {own.pss_mb:.1f} MB (rss {own.rss_mb:.1f})",
                f"{own.threads} threads, {own.files} files",
                f"trainer {trainer.pss_mb:.1f} MB",
            ]
        parts.append(
            f"{soaked.promotions} swaps, {soaked.drops} drops, {len(soaked.trained)} trained versions"
        )
        return ", ".join(parts)
