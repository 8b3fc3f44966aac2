"""What a check of `tlserve doctor` finds, and a net under checks that break."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    """Works, but not as well as it could; or something a person may have forgotten."""
    FAIL = "fail"
    """tlserve cannot do its work until somebody acts."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor. `advice` says what to do about it; empty when all is well."""

    name: str
    status: Status
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name, Status.OK, found)


def warn(name: str, found: str, advice: str) -> Check:
    return Check(name, Status.WARN, found, advice)


def fail(name: str, found: str, advice: str) -> Check:
    return Check(name, Status.FAIL, found, advice)


Checks = Callable[[], Iterable[Check]]


def run(name: str, checks: Checks) -> Iterator[Check]:
    """The findings of one group. A check that breaks is a finding too: the doctor sees broken machines."""
    try:
        yield from checks()
    except Exception as exc:
        yield fail(name, f"{type(exc).__name__}: {exc}", "this part of the installation is broken")
