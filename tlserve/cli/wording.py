"""Numbers and states in the words people use: pure functions from values to text."""

from __future__ import annotations

from datetime import datetime

from rich.text import Text

_STATE_STYLES = {
    "live": "bold green",
    "previous": "cyan",
    "candidate": "yellow",
    "held": "red",
    "retired": "dim",
}
_PHASE_STYLES = {"idle": "green", "waiting": "yellow", "failed": "red"}

NOTHING = "-"


def share(value: float | None) -> str:
    """0.9213 -> 92.1 %."""
    return NOTHING if value is None else f"{value * 100:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """0.9, 0.95 -> 90.0 to 95.0 %."""
    return "" if low is None or high is None else f"{low * 100:.1f} to {high * 100:.1f} %"


def seconds(value: float | None) -> str:
    """0.42 -> 0.42 s; 75 -> 1 min 15 s."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count(n: int, noun: str, plural: str = "") -> str:
    """1, 'image' -> 1 image; 2,000 images."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def parameters(n: int) -> str:
    """25_557_032 -> 25.6M; 8,410 -> 8k."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if n >= 0.9995 * size:
            return f"{n / size:.1f}{letter}"
    return f"{n / 1e3:.0f}k" if n >= 1000 else str(n)


def speed(per_second: float) -> str:
    """1234.5 -> 1,234; 4.23 -> 4.2."""
    return f"{per_second:,.0f}" if per_second >= 9.95 else f"{per_second:.1f}"


def local_time(iso_utc: str) -> str:
    """An ISO 8601 moment in the reader's own time zone; what is no moment comes back as it is."""
    try:
        return datetime.fromisoformat(iso_utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return iso_utc


def clock_time(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds).strftime("%H:%M:%S")


def state(name: str) -> Text:
    return Text(name, style=_STATE_STYLES.get(name, ""))


def phase(name: str) -> Text:
    return Text(name, style=_PHASE_STYLES.get(name, "cyan"))


def rate(done: int, total: int, per_second: float | None, seconds_left: float | None) -> str:
    """120 of 2,934, 210/s, 13 s left; parts that are not known are left out."""
    parts = [f"{done:,} of {total:,}"] if total else []
    if per_second:
        parts.append(f"{per_second:,.0f}/s")
    if seconds_left is not None and done < total:
        parts.append(f"{seconds(seconds_left)} left")
    return ", ".join(parts)
