"""What `tlserve bench` shows of its runs: a row each, what went wrong, who answered, and what to mind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.terminal import Listing, say, show, show_listing, table

if TYPE_CHECKING:
    from tlserve.client.load import LoadResult, LoadSettings, Requests

SHOWN_VERSIONS = 20
HEADINGS = ("requests/s", "images/s", "p50 ms", "p90", "p99", "p99.9", "max", "errors", "CPU")


def as_record(requests: Requests, results: Sequence[LoadResult]) -> dict[str, Any]:
    """All results as JSON: what was asked, and each run with its settings and numbers."""
    return {
        "models": list(requests.models),
        "input": requests.description,
        "batch": requests.batch,
        "runs": [
            {**asdict(result), "n_errors": result.n_errors, "warnings": warnings(result)}
            for result in results
        ],
    }


def show_results(results: Sequence[LoadResult]) -> None:
    """A row for each run, then its errors, and who answered where that was not one version."""
    show_listing(listing(results))
    if any(result.errors for result in results):
        show("")
        show(_errors(results))
    answered = results[-1].versions
    if len(answered) > 1:
        show("")
        rows = [(one.model, one.version, f"{one.answers:,}") for one in answered[:SHOWN_VERSIONS]]
        show(table(("model", "version", "answers"), rows, right=("version", "answers")))
        if len(answered) > SHOWN_VERSIONS:
            say(f"... and {len(answered) - SHOWN_VERSIONS:,} more: --json")


def _errors(results: Sequence[LoadResult]) -> Table:
    rows = [
        (
            in_figures(result.settings),
            error.status,
            f"{error.count:,}",
            _share(error.count, result),
            error.sample,
        )
        for result in results
        for error in result.errors
    ]
    headings = (_load_heading(results), "error", "requests", "share", "for example")
    return table(headings, rows, right=(headings[0], "requests", "share"))


def listing(results: Sequence[LoadResult]) -> Listing:
    """A row for each run, and in words what its numbers are of."""
    rows = [(in_figures(result.settings), *_numbers(result)) for result in results]
    headings = (_load_heading(results), *HEADINGS)
    return Listing(headings, rows, "of", [_words(result) for result in results], headings)


def _numbers(result: LoadResult) -> tuple[str, ...]:
    at = result.latency_ms
    latencies = ("-",) * 5 if at is None else (at.p50, at.p90, at.p99, at.p99_9, at.max)
    return (
        wording.speed(result.requests_per_second),
        wording.speed(result.images_per_second),
        *(one if isinstance(one, str) else milliseconds(one) for one in latencies),
        f"{result.n_errors:,}",
        f"{100 * sum(result.cpu_share):.0f} %",
    )


def milliseconds(value: float) -> str:
    """0.8321 -> 0.83; 12.34 -> 12.3; 1234.5 -> 1,234."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _words(result: LoadResult) -> str:
    parts = [f"{wording.count(result.answers, 'answer')} in {result.seconds:.1f} s"]
    if len(result.versions) == 1:
        parts[0] += f", all by version {result.versions[0].version}"
    elif result.versions:
        parts[0] += f", by {len(result.versions)} versions"
    if result.interrupted:
        parts.append("ended early")
    if result.unanswered:
        parts.append(f"{wording.count(result.unanswered, 'request')} given up")
    sending = result.sending
    if sending is not None:
        parts.append(f"{sending.planned:,} planned, {sending.late:,} sent late, {sending.unsent:,} not sent")
    return "; ".join(parts)


def in_words(settings: LoadSettings) -> str:
    """The load within a sentence."""
    if settings.rate is None:
        return wording.count(settings.clients, "client")
    return f"{settings.rate:,g} requests/s"


def _load_heading(results: Sequence[LoadResult]) -> str:
    return "clients" if results[0].settings.rate is None else "rate"


def in_figures(settings: LoadSettings) -> str:
    """The load as a cell of a table."""
    return f"{settings.clients:,}" if settings.rate is None else f"{settings.rate:,g}/s"


def _share(count: int, result: LoadResult) -> str:
    return wording.share(count / (result.answers + result.n_errors))


def say_warnings(results: Sequence[LoadResult]) -> None:
    """What makes the figures say less than they seem to."""
    for result in results:
        for warning in warnings(result):
            say(Text(f"{in_words(result.settings)}: {warning}", style="yellow"))


def warnings(result: LoadResult) -> list[str]:
    """What to mind when reading the figures of one run."""
    found: list[str] = []
    if not result.seconds:
        found.append("ended before anything was measured")
    if result.generator_is_ceiling:
        found.append(
            f"the generator took {100 * max(result.cpu_share):.0f} % of a core, so it may be what limits "
            f"these figures; try --processes {result.settings.processes * 2}"
        )
    elif result.generator_was_starved:
        found.append(
            f"the generator waited for a free core {wording.share(max(result.cpu_wait_share))} of the time, "
            "which is in the latencies; ask from another machine, or leave it a core"
        )
    sending = result.sending
    if sending is not None and sending.unsent:
        found.append(
            f"{sending.unsent:,} of {wording.count(sending.planned, 'planned request')} not sent, since too "
            "many waited for an answer: the server does not keep up with this rate, and without a limit the "
            "latencies would be higher still"
        )
    if sending is not None and sending.late:
        found.append(
            f"{sending.late:,} of {wording.count(sending.planned, 'planned request')} sent late, up to "
            f"{milliseconds(sending.latest_ms)} ms: it is in the latencies, but this machine's own doing"
        )
    return found
