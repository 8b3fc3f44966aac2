"""What a load run was asked to do and what it found: settings in, tallies of its processes, one result out.

No clock and no gRPC here, so that every number of the result can be checked by hand.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from tlserve.core.errors import SettingsError

LATE_SECONDS = 0.01
"""A request of an open loop that is sent this long after its planned time counts as late."""
CEILING_CPU_SHARE = 0.9
"""A process of the generator that takes this share of a core may be what limits the figures."""
STARVED_SHARE = 0.2
"""A process that waits for a core this share of the time measures the machine it runs on as well."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How to load a server. Raises SettingsError for what cannot work.

    clients: how many ask at the same time, each its next request when it has its answer (closed loop).
    rate: requests per second, sent at random (Poisson) times whatever the answers do (open loop); then
        `clients` has no meaning.
    warm_up_seconds: load before anything is counted.
    timeout_seconds: the deadline of each request.
    processes: how many processes share the work; one sends a few thousand requests per second.
    seed: of the planned times.
    max_waiting: requests of an open loop that may wait for answers at once; more are not sent, and counted.
    """

    address: str
    clients: int = 8
    rate: float | None = None
    seconds: float = 10.0
    warm_up_seconds: float = 2.0
    timeout_seconds: float = 30.0
    processes: int = 1
    seed: int = 0
    max_waiting: int = 4096

    def __post_init__(self) -> None:
        if min(self.clients, self.processes, self.max_waiting) < 1:
            raise SettingsError("a load needs at least 1 client, 1 process and 1 request that may wait")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise SettingsError(f"the rate must be above 0 requests per second (got {self.rate:g})")
        for name, value in (("seconds", self.seconds), ("timeout", self.timeout_seconds)):
            if not 0 < value < float("inf"):
                raise SettingsError(f"{name} must be above 0 (got {value:g})")
        if not 0 <= self.warm_up_seconds < float("inf"):
            raise SettingsError(f"the warm-up cannot be {self.warm_up_seconds:g} seconds")
        if self.rate is None and self.processes > self.clients:
            raise SettingsError(
                f"{self.clients} clients cannot be shared by {self.processes} processes; "
                "ask for more clients or fewer processes"
            )


@dataclass(slots=True)
class Tally:
    """What one process of the generator counted. It travels between processes, so it is plain values.

    latency_seconds: of every answer to a request planned within the measured time, also when the answer
        came after it. Errors are in `errors` alone.
    answers_in_time: answers that came within the measured time, whenever they were asked for.
    late_seconds: of each request in an open loop, how long after its planned time it was sent.
    unsent: planned requests that were not sent, because too many waited for their answers.
    unanswered: requests given up at an early end.
    """

    latency_seconds: array[float] = field(default_factory=lambda: array("d"))
    late_seconds: array[float] = field(default_factory=lambda: array("d"))
    answers_in_time: int = 0
    versions: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    error_samples: dict[str, str] = field(default_factory=dict)
    unsent: int = 0
    unanswered: int = 0
    measured_seconds: float = 0.0
    cpu_seconds: float = 0.0
    cpu_wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LatencyMs:
    """Milliseconds; each percentile is the latency of one answer (nearest rank), nothing is interpolated."""

    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Requests that ended with one gRPC status, and what one of them was told."""

    status: str
    count: int
    sample: str


@dataclass(frozen=True, slots=True)
class VersionCount:
    """Answers that one version of one model gave."""

    model: str
    version: str
    answers: int


@dataclass(frozen=True, slots=True)
class Sending:
    """How well an open loop kept its plan.

    late: requests sent more than LATE_SECONDS after their planned time.
    unsent: not sent at all, because too many waited for their answers.
    """

    planned: int
    late: int
    latest_ms: float
    unsent: int


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One run. Rates count answers that came within the measured time, without errors.

    answers: what the latencies are of: requests planned within the measured time and answered, early or late.
    cpu_share: of one core, by each process of the generator; see CEILING_CPU_SHARE.
    cpu_wait_share: of the measured time, how long each process wanted a core and got none.
    """

    settings: LoadSettings
    seconds: float
    interrupted: bool
    requests_per_second: float
    images_per_second: float
    answers: int
    latency_ms: LatencyMs | None
    errors: tuple[ErrorCount, ...]
    unanswered: int
    versions: tuple[VersionCount, ...]
    sending: Sending | None
    cpu_share: tuple[float, ...]
    cpu_wait_share: tuple[float, ...]

    @property
    def n_errors(self) -> int:
        return sum(error.count for error in self.errors)

    @property
    def generator_was_starved(self) -> bool:
        """Whether other work on this machine kept the generator from running; the latencies include it."""
        return max(self.cpu_wait_share, default=0.0) >= STARVED_SHARE

    @property
    def generator_is_ceiling(self) -> bool:
        """Whether more could have been asked by more processes of the generator."""
        return max(self.cpu_share, default=0.0) >= CEILING_CPU_SHARE


def summarised(
    settings: LoadSettings, tallies: Sequence[Tally], *, batch: int, interrupted: bool = False
) -> LoadResult:
    """The result of a run from what its processes counted. batch: images in each request."""
    seconds = max((tally.measured_seconds for tally in tallies), default=0.0)
    in_time = sum(tally.answers_in_time for tally in tallies)
    rate = in_time / seconds if seconds else 0.0
    latencies = sorted(latency for tally in tallies for latency in tally.latency_seconds)
    return LoadResult(
        settings=settings,
        seconds=seconds,
        interrupted=interrupted,
        requests_per_second=rate,
        images_per_second=rate * batch,
        answers=len(latencies),
        latency_ms=_latency_ms(latencies) if latencies else None,
        errors=_errors(tallies),
        unanswered=sum(tally.unanswered for tally in tallies),
        versions=_versions(tallies),
        sending=None if settings.rate is None else _sending(tallies),
        cpu_share=_shares([tally.cpu_seconds for tally in tallies], seconds),
        cpu_wait_share=_shares([tally.cpu_wait_seconds for tally in tallies], seconds),
    )


def _shares(spent: Sequence[float], seconds: float) -> tuple[float, ...]:
    return tuple(one / seconds if seconds else 0.0 for one in spent)


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of them do not exceed (nearest rank)."""
    # The rounding keeps 0.999 * 1000 at rank 999, where floating point says a little more.
    rank = ceil(round(share * len(ascending), 6))
    return ascending[max(rank, 1) - 1]


def _latency_ms(ascending: Sequence[float]) -> LatencyMs:
    p50, p90, p99, p99_9 = (percentile(ascending, share) * 1000 for share in (0.5, 0.9, 0.99, 0.999))
    mean = sum(ascending) / len(ascending) * 1000
    return LatencyMs(mean, p50, p90, p99, p99_9, ascending[-1] * 1000)


def _errors(tallies: Sequence[Tally]) -> tuple[ErrorCount, ...]:
    counts: Counter[str] = Counter()
    samples: dict[str, str] = {}
    for tally in tallies:
        counts.update(tally.errors)
        samples = tally.error_samples | samples
    return tuple(ErrorCount(status, count, samples[status]) for status, count in counts.most_common())


def _versions(tallies: Sequence[Tally]) -> tuple[VersionCount, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for tally in tallies:
        counts.update(tally.versions)
    return tuple(VersionCount(*key, count) for key, count in sorted(counts.items()))


def _sending(tallies: Sequence[Tally]) -> Sending:
    late = [seconds for tally in tallies for seconds in tally.late_seconds]
    unsent = sum(tally.unsent for tally in tallies)
    return Sending(
        planned=len(late) + unsent,
        late=sum(seconds > LATE_SECONDS for seconds in late),
        latest_ms=max(late, default=0.0) * 1000,
        unsent=unsent,
    )
