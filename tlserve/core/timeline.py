"""The way of a change from the folder to the answer, step by step: what each took, in seconds.

The trainer measures its phases; before them lie settling and waiting, behind them loading and swapping.
"""

from __future__ import annotations

from collections.abc import Mapping

SETTLED = "settled"
STARTED = "started"
LIVE = "live"

_STEP_OF_PHASE = {
    "settling": SETTLED,
    "queued": STARTED,
    "scanning": "digested",
    "extracting": "extracted",
    "training": "fitted",
    "judging": "judged",
    "publishing": "published",
    "swapping": LIVE,
}
STEPS = tuple(_STEP_OF_PHASE.values())
"""In order. The clock starts when the change is noticed."""


def steps(phases: Mapping[str, float], drop_to_live_seconds: float | None = None) -> dict[str, float]:
    """Seconds that each step took, in order, from the seconds that each phase took.

    drop_to_live_seconds: from the notice to the answer; what the phases do not account for is the last step,
    if the time before the pass is among them. Steps that a pass did not take are left out.
    """
    found = {step: phases[phase] for phase, step in _STEP_OF_PHASE.items() if phase in phases}
    if drop_to_live_seconds is not None and SETTLED in found and STARTED in found:
        found[LIVE] = max(0.0, round(drop_to_live_seconds - sum(found.values()), 4))
    return found
