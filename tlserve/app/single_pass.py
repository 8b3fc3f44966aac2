"""`tlserve train`: one model, trained without a daemon; what is better goes live in the state directory."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlserve.app.board import Board
from tlserve.app.lock import StateLock
from tlserve.app.processes import trainer_command, tuner_command
from tlserve.app.tunings import carried_out
from tlserve.core.messages import (
    Event,
    ExportJob,
    PassDone,
    PassJob,
    Progress,
    Recipe,
    ReportJob,
    ReportWritten,
    SnapshotTaken,
)
from tlserve.core.plan import Depth
from tlserve.core.types import check_model_name
from tlserve.release import VersionStore, promoted
from tlserve.release.layout import StateLayout
from tlserve.rpc.backend import ModelEvent
from tlserve.schedule import TrainerKeeper
from tlserve.settings import Settings, load_model_file, recipe_for

Tell = Callable[[ModelEvent], None]

GOOD_OUTCOMES = ("published", "unchanged")


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """How `train_once` ended."""

    passes: tuple[PassDone, ...]
    """One, or with `study` more; all but the last one went well."""
    live: int | None
    """The version that is live in the state directory now."""
    backbone: str
    """What was learnt on: the settings' own, or the one that was adopted for the model."""
    page: Path | None
    """The report of the newest of these versions, else of the live one; None without a version."""
    page_problem: str | None = None
    """Why that page could not be written."""

    @property
    def done(self) -> PassDone:
        """The last pass."""
        return self.passes[-1]

    @property
    def is_good(self) -> bool:
        return self.done.outcome in GOOD_OUTCOMES


def train_once(
    settings: Settings, folder: Path, on_event: Tell | None = None, *, study: bool = False
) -> TrainOutcome:
    """Train one model's folder without a daemon; its version goes live in the state directory.

    study: after the first version, look for a better one with augmented views and fine-tuning, as a daemon
    does in the background. Raises BadModelName, SettingsError, StateLocked (a daemon owns the state),
    TrainerFailed.
    """
    return asyncio.run(_train(settings, folder.absolute(), on_event or (lambda event: None), study=study))


async def _train(settings: Settings, folder: Path, tell: Tell, *, study: bool) -> TrainOutcome:
    model = check_model_name(folder.name)
    layout = StateLayout(settings.state.absolute())
    board = Board(tell)

    def heard(event: Event) -> None:
        if isinstance(event, Progress):
            board.progressed(event)
        elif isinstance(event, SnapshotTaken):
            board.snapshot(event)

    with StateLock(layout.lock, holder="tlserve train"):
        store = VersionStore(layout.models)
        state = store.live(model)
        recipe = recipe_for(settings, load_model_file(folder), state.promotion, state.backbone)
        keeper = TrainerKeeper(trainer_command(settings, layout.root, niceness=0), heard)
        try:
            tuner = tuner_command(settings, layout.root, niceness=0)
            one = _SingleModel(model, folder, recipe, store=store, keeper=keeper, tuner=tuner, board=board)
            return await one.run(study=study)
        finally:
            await keeper.stop()


class _SingleModel:
    """The story of one `tlserve train`, while this process owns the state directory."""

    def __init__(
        self,
        model: str,
        folder: Path,
        recipe: Recipe,
        *,
        store: VersionStore,
        keeper: TrainerKeeper,
        tuner: Sequence[str],
        board: Board,
    ) -> None:
        """tuner: argv that starts one."""
        self._model, self._folder, self._recipe, self._tuner = model, folder, recipe, tuner
        self._store, self._keeper, self._board = store, keeper, board

    async def run(self, *, study: bool) -> TrainOutcome:
        passes = [await self._pass(Depth.ROWS)]
        if study and passes[-1].outcome in GOOD_OUTCOMES:
            words = f"{passes[0].reason}; now a better version is looked for"
            self._board.said(self._model, "version", words, passes[0].version)
            passes.append(await self._pass(Depth.FULL))
            if passes[-1].tune:
                passes += await self._tuned()
        live = self._store.live(self._model).live
        newest = next((done.version for done in reversed(passes) if done.version is not None), live)
        page, problem = (None, None) if newest is None else await self._page(newest)
        return TrainOutcome(tuple(passes), live, self._recipe.backbone, page, problem)

    async def _pass(self, depth: Depth, *, tuned: str | None = None) -> PassDone:
        """One pass; a version that the judge wants goes live."""
        self._board.queued(self._model)
        job = PassJob(
            uuid.uuid4().hex, self._model, str(self._folder), self._recipe, depth=depth, tuned=tuned
        )
        done = await self._keeper.run(job)
        assert isinstance(done, PassDone)
        if done.promote and done.version is not None:
            refines = self._store.refines(self._model, done.version)
            before = self._store.live(self._model)
            state = promoted(before, done.version, time.time(), done.reason, refines=refines)
            self._store.write_live(self._model, state)
            await self._keeper.run(ExportJob(uuid.uuid4().hex, self._model, done.version, state.pinned))
            self._store.retire(self._model, self._recipe.keep_versions)
        self._board.ended(done)
        return done

    async def _tuned(self) -> list[PassDone]:
        """Fine-tune as ordered, and learn on what came of it; nothing if it came to nothing."""
        told = await carried_out(self._tuner, self._model, self._board)
        self._board.said(self._model, "version" if told.build else "problem", told.reason)
        return [] if told.build is None else [await self._pass(Depth.ROWS, tuned=told.build)]

    async def _page(self, version: int) -> tuple[Path | None, str | None]:
        """Have the report of a version written; where it is, or why it is not."""
        told = await self._keeper.run(ReportJob(uuid.uuid4().hex, self._model, version, str(self._folder)))
        assert isinstance(told, ReportWritten)
        return (Path(told.path), None) if told.error is None else (None, told.error)
