"""Kills at random moments between a drop and its answer: nothing is lost, nothing is there twice.

Run with TLSERVE_KILLS=200 for a long one; the seed of a run stands in the name of a failing test.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tests.flow.test_trouble import trainer_of
from tlserve.client import Client
from tlserve.core.errors import TlserveError
from tlserve.features import FeatureStore
from tlserve.ingest import Catalog
from tlserve.release import VersionStore
from tlserve.runtime import read_build_spec

KILLS = int(os.environ.get("TLSERVE_KILLS", "8"))
INSTANT = {**os.environ, "TLSERVE_INSTANT_BUDGET_SECONDS": "0.01", "TLSERVE_RECONCILE_SECONDS": "3600"}
"""A budget so small that every drop has a fast version and a refined one. But for the first look of each
daemon nothing but the watcher's paths tells of changes: a path that is lost stays lost."""


class Disorder:
    """Somebody who adds, moves, replaces and removes pictures, and knows what must be there in the end."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self._folder, self._dice, self._seed = folder, dice, 100

    def disturb(self) -> None:
        shape, other = self._dice.sample(("disc", "bar"), 2)
        files = sorted((self._folder / shape).iterdir())
        match self._dice.choice(("add", "add", "move", "replace", "remove", "copy")):
            case "add":
                self._seed += 1
                draw_shapes(self._folder / shape, shape, self._dice.randint(1, 4), seed=self._seed)
            case "move" if len(files) > 20:
                picked = self._dice.choice(files)
                picked.rename(self._folder / other / f"moved-{self._dice.random()}-{picked.name}")
            case "replace":
                source, target = self._dice.sample(files, 2)
                shutil.copyfile(source, target)
            case "remove" if len(files) > 20:
                self._dice.choice(files).unlink()
            case "copy":
                shutil.copyfile(self._dice.choice(files), self._folder / shape / f"{self._dice.random()}.png")


def kill_somebody(daemon: DaemonProcess, dice: random.Random) -> None:
    """The trainer, the daemon, or both, whatever they are doing; and the daemon is started again."""
    trainer = trainer_of(daemon)
    if trainer is not None and dice.random() < 0.6:
        with contextlib.suppress(psutil.NoSuchProcess):  # the daemon ended it a moment ago
            trainer.kill()
    if trainer is None or dice.random() < 0.4:
        daemon.kill()
        daemon.start()


@pytest.mark.parametrize("seed", [random.SystemRandom().randrange(2**32)])
def test_kills_between_drop_and_answer_lose_and_double_nothing(
    seed: int, shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    dice = random.Random(seed)
    daemon = make_daemon()
    daemon.env = INSTANT
    person = Disorder(shapes, dice)
    with running(daemon):
        wait_until(lambda: live_images(daemon) > 0, "the first version")
        for _ in range(KILLS):
            for _ in range(dice.randint(1, 3)):
                person.disturb()
            time.sleep(dice.uniform(0.0, 1.5))
            kill_somebody(daemon, dice)
        contents = usable_contents(shapes)
        wait_until(lambda: is_learnt(daemon, shapes.name, len(contents)), f"a version of all {len(contents)}")
        daemon.stop()
    check_state(daemon, shapes, contents)


def live_images(daemon: DaemonProcess) -> int:
    """Of the version that answers; 0 while none does."""
    try:
        with Client(daemon.address) as client:
            return next((v.images for v in client.versions("shapes") if v.state == "live"), 0)
    except TlserveError:
        return 0


def is_learnt(daemon: DaemonProcess, model: str, n_images: int) -> bool:
    """Whether the newest version holds just these images, the full recipe has spoken, and nothing goes on."""
    try:
        with Client(daemon.address) as client:
            found = client.versions(model)
            quiet = all(one.phase in ("idle", "waiting") for one in client.models())
    except TlserveError:
        return False
    return quiet and bool(found) and found[-1].images == n_images and not found[-1].instant


def usable_contents(folder: Path) -> set[bytes]:
    """Contents that lie in one class only."""
    classes = [{path.read_bytes() for path in sorted(one.iterdir())} for one in sorted(folder.iterdir())]
    both = set.intersection(*classes)
    return set.union(*classes) - both


def check_state(daemon: DaemonProcess, folder: Path, contents: set[bytes]) -> None:
    """What a stopped daemon left: catalog, rows and versions agree with the folder."""
    with Catalog(daemon.state / "catalog.sqlite3", read_only=True) as catalog:
        known = catalog.files(folder.name)
    on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(known) == on_disk
    (build,) = [path for path in (daemon.state / "backbones").iterdir() if path.is_dir()]
    rows = sqlite3.connect(daemon.state / "features" / build.name / "index.sqlite3")
    ((n_rows, n_keys),) = rows.execute("SELECT count(*), count(DISTINCT key) FROM rows").fetchall()
    rows.close()
    assert n_rows == n_keys
    with FeatureStore(
        daemon.state / "features" / build.name, row_width=read_build_spec(build).row_width
    ) as store:
        assert not store.missing([hashlib.sha256(content).hexdigest() for content in contents])
        store.read(store.keys())  # every row against its checksum
    versions = VersionStore(daemon.state / "models")
    numbers = versions.versions(folder.name)
    made = [versions.load(folder.name, number).manifest for number in numbers]
    work = [(one.snapshot_id, one.build, one.instant, one.judged_against) for one in made]
    assert len(set(work)) == len(work)
    assert versions.manifest(folder.name, numbers[-1]).n_images == len(contents)
    assert versions.live(folder.name).live in numbers
