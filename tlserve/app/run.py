"""Ways to run tlserve from a command: the daemon until a signal, one look at the backbones."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlserve.app.backbones import backbone_description, backbone_lines
from tlserve.app.comparing import comparison, comparison_event
from tlserve.app.daemon import Daemon, Started
from tlserve.app.lock import StateLock
from tlserve.app.processes import trainer_command
from tlserve.core.backbones import BackboneDescription
from tlserve.core.messages import (
    BackboneDescribed,
    BackboneEntry,
    BackbonesChecked,
    BackbonesListed,
    CheckBackbonesJob,
    Compared,
    CompareJob,
    DescribeBackboneJob,
    Event,
    Job,
    ListBackbonesJob,
    Progress,
)
from tlserve.core.types import check_model_name
from tlserve.observe import set_up_logging
from tlserve.release import VersionStore
from tlserve.release.layout import StateLayout
from tlserve.rpc.backend import BackboneLine, Comparison, ModelEvent
from tlserve.schedule import LastEvent, TrainerKeeper
from tlserve.settings import Settings, load_model_file, recipe_for

log = logging.getLogger("tlserve.app")

SAME_SIGNAL_SECONDS = 0.5
"""Shells and supervisors send one signal to a process and again to its group: that is one request to stop."""

Tell = Callable[[ModelEvent], None]


@dataclass(frozen=True, slots=True)
class BackboneSurvey:
    """What `survey_backbones_once` found; an entry with an `error` is of no use."""

    offered: tuple[BackboneLine, ...]
    """All that the installed plugins offer, with what the builds in the state directory know of it."""
    checked: tuple[BackboneEntry, ...]
    """The backbones that were asked about, each loaded with its weights; in that order."""


def serve(settings: Settings, on_started: Callable[[Started], None] | None = None) -> int:
    """Run the daemon until SIGINT or SIGTERM; returns the exit code.

    Raises OperatorError when it cannot start: a state directory in use, an address taken.
    """
    set_up_logging(settings.log_level)
    asyncio.run(_run_until_signalled(settings, on_started))
    return 0


def survey_backbones_once(settings: Settings, names: Sequence[str]) -> BackboneSurvey:
    """What the installed plugins offer, and what loading the backbones `names` tells.

    Asked of a trainer that is started for it and ends with it; needs no state directory of its own, so
    a daemon may run meanwhile. A plugin may download weights that it does not have yet. Raises TrainerFailed.
    """
    jobs = ListBackbonesJob(uuid.uuid4().hex), CheckBackbonesJob(uuid.uuid4().hex, tuple(names))
    with tempfile.TemporaryDirectory(prefix="tlserve-") as state:
        listed, checked = asyncio.run(_run_errands(settings, Path(state), *jobs))
    assert isinstance(listed, BackbonesListed)
    assert isinstance(checked, BackbonesChecked)
    builds = StateLayout(settings.state.absolute()).backbones
    return BackboneSurvey(tuple(backbone_lines(listed.backbones, builds)), checked.backbones)


def describe_backbone_once(settings: Settings, name: str, *, measure: bool = False) -> BackboneDescription:
    """Load one backbone, as `survey_backbones_once` does, and tell all about it.

    measure: make its build and run it, in the state directory if there is one, else for this once.
    Raises NotFound, BackboneProblem, StateLocked (to measure while a daemon owns the state), TrainerFailed.
    """
    layout = StateLayout(settings.state.absolute())
    with contextlib.ExitStack() as stack:
        if measure and layout.root.is_dir():
            stack.enter_context(StateLock(layout.lock, holder="tlserve backbones"))
            state = layout.root
        else:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tlserve-")))
        job = DescribeBackboneJob(uuid.uuid4().hex, name, measure, settings.precision)
        (told,) = asyncio.run(_run_errands(settings, state, job))
    assert isinstance(told, BackboneDescribed)
    return backbone_description(told, layout.backbones, settings.precision)


def compare_once(
    settings: Settings, folder: Path, backbones: Sequence[str], on_event: Tell | None = None
) -> Comparison:
    """One model's folder through several backbones, without a daemon; rows and builds stay in the state.

    Raises BadModelName, SettingsError, StateLocked (a daemon owns the state), NotReady (too few classes,
    say), TrainerFailed.
    """
    folder, layout = folder.absolute(), StateLayout(settings.state.absolute())
    model = check_model_name(folder.name)

    def heard(event: Event) -> None:
        if isinstance(event, Progress) and on_event is not None:
            on_event(comparison_event(event))

    with StateLock(layout.lock, holder="tlserve compare"):
        state = VersionStore(layout.models).live(model)
        recipe = recipe_for(settings, load_model_file(folder), state.promotion, state.backbone)
        job = CompareJob(uuid.uuid4().hex, model, str(folder), recipe, tuple(backbones))
        (told,) = asyncio.run(_run_errands(settings, layout.root, job, on_event=heard))
    assert isinstance(told, Compared)
    return comparison(told)


async def _run_until_signalled(settings: Settings, on_started: Callable[[Started], None] | None) -> None:
    """Run a daemon until SIGINT or SIGTERM, then stop it in order; a second signal ends it at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    stopped_at = 0.0

    def signalled(number: signal.Signals) -> None:
        nonlocal stopped_at
        if stop.is_set():
            if loop.time() - stopped_at < SAME_SIGNAL_SECONDS:
                return
            log.warning("stopped by a second %s; requests in flight are lost", number.name)
            raise SystemExit(128 + number)
        log.info("%s: finishing what is in flight", number.name)
        stopped_at = loop.time()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, functools.partial(signalled, number))
    async with Daemon(settings) as daemon:
        if on_started is not None:
            on_started(daemon.started)
        await stop.wait()


async def _run_errands(
    settings: Settings, state: Path, *jobs: Job, on_event: Callable[[Event], None] = lambda event: None
) -> list[LastEvent]:
    """Have a trainer of its own do these jobs, one after the other."""
    keeper = TrainerKeeper(trainer_command(settings, state, niceness=0), on_event)
    try:
        return [await keeper.run(job) for job in jobs]
    finally:
        await keeper.stop()
