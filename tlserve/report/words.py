"""Numbers and technical names in the words of the page: pure functions from values to text."""

from __future__ import annotations

from datetime import datetime

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_THIN = "\N{NARROW NO-BREAK SPACE}"

HEADS = {
    "softmax": "softmax regression",
    "ovr": "one against the rest (ovr)",
    "svm": "linear support vectors (svm)",
    "ridge": "ridge regression",
    "projection": "random projection",
    "mlp": "small neural network (mlp)",
}
STRATEGIES = {
    "head": "a head on the backbone's last features",
    "taps": "a head on earlier features of the backbone",
    "finetune": "fine-tuning of the backbone's last blocks",
    "finetune_all": "fine-tuning of the whole backbone",
    "scratch": "training from random weights",
}


def percent(value: float | None, digits: int = 1) -> str:
    """0.9213 -> 92.1 %."""
    return NOTHING if value is None else f"{value * 100:.{digits}f}{_THIN}%"


def interval(low: float | None, high: float | None) -> str:
    """0.9, 0.95 -> 90.0 to 95.0 %."""
    return "" if low is None or high is None else f"{low * 100:.1f} to {high * 100:.1f}{_THIN}%"


def points(difference: float | None) -> str:
    """0.012 -> +1.2 points, with its sign."""
    if difference is None:
        return NOTHING
    rounded = round(difference * 100, 1)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f} {'point' if abs(rounded) == 1 else 'points'}"


def count(n: float, noun: str = "", plural: str = "") -> str:
    """1, 'picture' -> 1 picture; 2,000 pictures; a bare number without a noun."""
    amount = f"{round(n):,}"
    if not noun:
        return amount
    return f"{amount} {noun if round(n) == 1 else plural or noun + 's'}"


def seconds(value: float | None) -> str:
    """0.0042 -> 4.2 ms; 0.42 -> 0.42 s; 75 -> 1 min 15 s."""
    if value is None:
        return NOTHING
    if 0 < value < 0.1:
        return f"{value * 1000:.1f} ms"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def small(value: float | None, figures: int = 3) -> str:
    """A number of any size, with three figures: 0.0123, 1.21, 4.9, 346, 12,345."""
    if value is None:
        return NOTHING
    size = abs(value)
    large = size == 0 or size >= 10**figures / 10 - 0.05
    return (MINUS if value < 0 else "") + (f"{size:,.0f}" if large else f"{size:.{figures}g}")


def parameters(n: float | None) -> str:
    """25_557_032 -> 25.6 M; 8,410 -> 8 k."""
    if n is None:
        return NOTHING
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if n >= 0.9995 * size:
            return f"{n / size:.1f} {letter}"
    return f"{n / 1e3:.0f} k" if n >= 1000 else count(n)


def value_text(value: object) -> str:
    """A value of unknown type, briefly."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return small(value)
    return str(value)


def spaced(name: str) -> str:
    """last_tap_accuracy -> last tap accuracy."""
    return name.replace("_", " ")


def moment(iso: str) -> str:
    """2026-11-21T16:40:12+00:00 -> 21 November 2026, 16:40 UTC; what is no moment comes back as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = f" {when.tzname()}" if when.tzinfo else ""
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"
