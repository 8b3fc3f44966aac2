"""How close the first import of a data set comes to what decoding and inference allow on the same cores.

    python -m tests.benchmarks first_import

A daemon on a fresh state; flowers appear in its watch root at once, none of them in a cache. The clock runs
from the daemon's first notice to the swap to a version that holds all images: looking through the folder,
reading, digesting, making the build, the trial of a faster precision, learning, judging and writing all
count. The bound is that of `extraction`, on the build that the version stands on, measured right after each
import when the daemon is gone. Once with the precision left to the daemon, once in fp32, where nothing is
tried.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.benchmarks import extraction
from tests.benchmarks.dropping import calm, in_words, lay_out, wait_live
from tests.benchmarks.installation import Installation, is_quick
from tlserve.client import Client
from tlserve.core.errors import TlserveError
from tlserve.core.lifecycle import Phase
from tlserve.rpc.backend import ModelEvent
from tlserve.runtime import read_build_spec

MODEL = "flowers"
BAR = 0.9
IMPORTS = {"auto": 5, "fp32": 3}
"""How many of each, by precision."""
N_PHOTOS, QUICK_PHOTOS = 512, 64
"""Of the bound's measurement."""
QUICK_IMAGES = 60
"""Of each class, in a trial run."""
TRIAL = "trying a precision"
NOTES = {"preparing": "preparing the backbone", "making": "making a build", "trying": TRIAL}
"""What a message of the phase `extracting` begins with, where it is about the backbone."""
IMPORT_SECONDS = 600.0
REST_SECONDS = 5.0
"""After the start: whatever a daemon does with nothing to learn is over by then."""


@dataclass(frozen=True)
class Import:
    """One first import, and what its machine could have done."""

    n_images: int
    precision: str
    first_seconds: float
    """From the first notice to the first live version, which may be learnt from a part of the images."""
    first_images: int
    whole_seconds: float
    """To the first live version with all images."""
    phases: Mapping[str, float]
    """Seconds up to then."""
    n_extracted: int
    """Images that passed in the phase `extracting`, without those of a trial."""
    bound: float
    """Images a second."""
    extraction: float
    """What `extraction` alone reached of the bound in that measurement."""

    @property
    def ratio(self) -> float:
        return self.n_images / self.whole_seconds / self.bound

    def words(self) -> str:
        told = f"{self.n_images} images in {self.whole_seconds:.1f} s ({in_words(self.phases)})"
        return f"{told}; {self.precision}, bound {self.bound:.0f} images/s, {self.ratio:.2f} of it"


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    lines: dict[str, float | str] = {}
    for precision, n_imports in IMPORTS.items():
        imports = [imported(shared, precision) for _ in range(1 if is_quick() else n_imports)]
        lines |= _lines(precision, imports)
    return lines


def imported(shared: Path, precision: str) -> Import:
    """precision: the setting."""
    env = {"TLSERVE_STUDY": "false", "TLSERVE_PRECISION": precision}
    with TemporaryDirectory(prefix="tlserve-bench-") as root:
        pictures = _pictures(shared, Path(root) / MODEL)
        with Installation.under(Path(root), shared, env=env) as here:
            here.start()
            with here.client() as client, watched(client) as events:
                time.sleep(REST_SECONDS)
                pictures.rename(here.daemon.watch / MODEL)
                wait_live(client, [MODEL], IMPORT_SECONDS)
                calm(here, client, [MODEL])
                swaps = {e.version: e.at for e in events if e.kind == "swap" and e.version is not None}
                images = {line.version: line.images for line in client.versions(MODEL)}
            here.stop()
            build = here.layout.backbones / here.store.manifest(MODEL, max(images)).build
            photos = sorted((here.daemon.watch / MODEL).rglob("*.jpg"))
            n_photos = QUICK_PHOTOS if is_quick() else N_PHOTOS
            figures = extraction.measure(build, photos[:: max(1, len(photos) // n_photos)], rounds=1)
        precision = read_build_spec(build).precision
    whole = min(version for version in swaps if images.get(version) == max(images.values()))
    first, noticed = min(swaps), events[0].at
    seconds, n_extracted = phases(events, swaps[whole])
    return Import(
        n_images=images[whole],
        precision=precision,
        first_seconds=swaps[first] - noticed,
        first_images=images[first],
        whole_seconds=swaps[whole] - noticed,
        phases=seconds,
        n_extracted=n_extracted,
        bound=figures["bound, images/s"],
        extraction=figures[f"extraction / bound (bar {extraction.BAR})"],
    )


def _pictures(shared: Path, folder: Path) -> Path:
    for source in sorted((shared / "datasets/flowers").iterdir()):
        lay_out(sorted(source.iterdir())[: QUICK_IMAGES if is_quick() else None], folder)
    # Pages not written back yet would be written while the clock runs.
    os.sync()
    return folder


@contextlib.contextmanager
def watched(client: Client) -> Iterator[list[ModelEvent]]:
    """A list to which the model's events are added as they come."""
    events: list[ModelEvent] = []

    def listen() -> None:
        # The daemon ends before the watch does.
        with contextlib.suppress(TlserveError):
            for event in client.watch():
                if event.model == MODEL:
                    events.append(event)

    threading.Thread(target=listen, daemon=True).start()
    yield events


def phases(events: Sequence[ModelEvent], until: float) -> tuple[dict[str, float], int]:
    """(seconds in each phase, images that passed in `extracting`), all before `until`, in Unix time.

    From one event to the next, the model is in the former's phase.
    """
    seconds: dict[str, float] = defaultdict(float)
    step, n_passed = "", 0
    for event, after in itertools.pairwise(events):
        step = _step(event, step)
        if after.at <= until:
            seconds[step] += after.at - event.at
            if step == Phase.EXTRACTING.value and _step(after, step) != step:
                n_passed += event.done
    return dict(seconds), n_passed


def _step(event: ModelEvent, before: str) -> str:
    """The phase, with what is done about the backbone told apart from passing the images."""
    if event.kind == "swap":
        return "between versions"
    if event.phase != Phase.EXTRACTING.value:
        return event.phase
    if before == TRIAL and event.kind == "progress" and event.total:
        return TRIAL
    return next((step for words, step in NOTES.items() if event.message.startswith(words)), event.phase)


def _lines(setting: str, imports: Sequence[Import]) -> dict[str, float | str]:
    for one in imports:
        print(f"  {one.words()}", flush=True)
    names = dict.fromkeys(name for one in imports for name in one.phases)
    typical = {name: median(one.phases.get(name, 0.0) for one in imports) for name in names}
    passed = [i.n_extracted / i.phases["extracting"] / i.bound for i in imports if i.n_extracted]
    bound = median(one.bound for one in imports)
    lines: dict[str, float | str] = {
        f"images/s over the bound, median of {len(imports)} (at least {BAR:g})": median(
            one.ratio for one in imports
        ),
        "each": ", ".join(f"{one.ratio:.2f}" for one in imports),
        "images; images/s; bound, images/s": (
            f"{imports[0].n_images}; {imports[0].n_images / median(i.whole_seconds for i in imports):.0f}; "
            f"{bound:.0f}"
        ),
        "taken": ", ".join(one.precision for one in imports),
        "phases, medians, s": in_words(typical),
        "the seconds that the bound allows": imports[0].n_images / bound,
        "of the bound while extracting": median(passed) if passed else "nothing was extracted",
        "extraction alone, of the bound": median(one.extraction for one in imports),
        "first live version, s": median(one.first_seconds for one in imports),
        "its images": ", ".join(str(one.first_images) for one in imports),
    }
    return {f"precision {setting}: {what}": value for what, value in lines.items()}
