"""What the demo shows, in order: images, daemon, first version, answers, a new class under load."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.demo.digits import NAMES, Digit, Digits, load_digits, write_class_folders
from tlserve.cli.demo.load import CLIENTS, Load
from tlserve.cli.demo.process import DEFAULT_ADDRESSES, DaemonProcess, DemoFailed
from tlserve.cli.progress import PassView, Step
from tlserve.client import Client, ModelEvent, ModelSummary
from tlserve.core.errors import TlserveError

MODEL = "digits"
FIRST, LATER = NAMES[:9], NAMES[9:]
START_SECONDS = 60.0
FIRST_VERSION_SECONDS = 180.0
NEW_VERSION_SECONDS = 120.0
BEFORE_DROP_SECONDS = 1.0
AFTER_SWAP_SECONDS = 1.0
IMAGES_PER_CALL = 32
INDENT = "   "


class Story:
    """One run of the demo. Raises DemoFailed where the show does not keep its promise."""

    def __init__(self, console: Console, process: DaemonProcess, folder: Path) -> None:
        self._console = console
        self._process = process
        self._questions_folder = folder / "questions"
        self._address = process.addresses.grpc
        self._model_folder = process.watch / MODEL
        self._events: queue.Queue[ModelEvent] = queue.Queue()
        self._chapters = 0

    def run(self, *, once: bool) -> None:
        self._console.print(Text("tlserve demo: from a folder of images to a live service", style="bold"))
        digits = self._write_images()
        self._chapter("A daemon")
        started_at = time.monotonic()
        with self._process, Client(self._address) as client:
            self._wait_until_up(client)
            threading.Thread(target=_collect, args=(self._address, self._events), daemon=True).start()
            took = wording.seconds(time.monotonic() - started_at)
            self._line(f"`tlserve serve` is up after {took}, gRPC at {self._address}")
            summary = self._follow_first_version(client, started_at)
            self._ask(client, digits.questions_of(FIRST))
            self._drop_a_class(client, digits, live=summary.live or 0)
            if not once:
                self._stay(client)

    def _write_images(self) -> Digits:
        self._chapter("Images")
        digits = load_digits()
        lessons = digits.lessons_of(FIRST)
        write_class_folders(lessons, self._model_folder)
        write_class_folders(digits.questions, self._questions_folder)
        self._line(
            f"{len(lessons):,} handwritten digits in {len(FIRST)} class folders, {FIRST[0]} to {FIRST[-1]}:"
        )
        self._line(f"{self._model_folder}")
        self._line(f"Every fifth digit ({len(digits.questions)} in all) is kept back, to ask about later.")
        return digits

    def _wait_until_up(self, client: Client) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not client.ready():
            self._process.check_alive()
            if time.monotonic() > give_up:
                raise DemoFailed(
                    f"the daemon did not answer within {START_SECONDS:g} s; {self._process.last_words()}"
                )
            time.sleep(0.05)

    def _follow_first_version(self, client: Client, started_at: float) -> ModelSummary:
        self._chapter("A first version")
        self._follow(lambda: client.ready(MODEL), FIRST_VERSION_SECONDS)
        summary = client.model(MODEL)
        took = wording.seconds(time.monotonic() - started_at)
        self._good(f"Version {summary.live} is live, {took} after the start.")
        if summary.accuracy is not None:
            spread = wording.interval(summary.accuracy_low, summary.accuracy_high)
            accuracy = wording.share(summary.accuracy)
            self._line(f"Right on {accuracy} of its own held-out images (95 % interval {spread}).")
        return summary

    def _follow(self, done: Callable[[], bool], limit_seconds: float) -> None:
        """Show what the daemon tells until `done`; raises DemoFailed when that will not be."""
        give_up = time.monotonic() + limit_seconds
        with PassView(self._console, indent=INDENT) as view:
            while not done():
                self._process.check_alive()
                if time.monotonic() > give_up:
                    raise DemoFailed(
                        f"nothing new is live after {limit_seconds:g} s; {self._process.last_words()}"
                    )
                for event in _waiting(self._events, pause_seconds=0.05):
                    if event.kind == "version":
                        raise DemoFailed(f"the judge held the new version: {event.message}")
                    view.show(
                        Step(event.phase, event.done, event.total, event.per_second, event.seconds_left)
                    )

    def _ask(self, client: Client, questions: Sequence[Digit]) -> None:
        self._chapter("Answers")
        began = time.monotonic()
        right = count_right(client, questions)
        took = time.monotonic() - began
        self._line(
            f"{len(questions)} kept-back digits asked over gRPC, {IMAGES_PER_CALL} at a time, "
            f"in {wording.seconds(took)}."
        )
        self._good(f"{wording.share(right / len(questions))} right ({len(questions) / took:,.0f} images/s).")

    def _drop_a_class(self, client: Client, digits: Digits, *, live: int) -> None:
        self._chapter("A new class, under load")
        lessons = digits.lessons_of(LATER)
        with Load(self._address, MODEL, [digit.png for digit in digits.questions]) as load:
            time.sleep(BEFORE_DROP_SECONDS)
            write_class_folders(lessons, self._model_folder)
            dropped_at = time.monotonic()
            self._line(
                f"{len(lessons)} images of {LATER[0]!r} dropped, while {CLIENTS} clients keep asking ..."
            )
            self._follow(lambda: load.first_answer_after(live) is not None, NEW_VERSION_SECONDS)
            time.sleep(AFTER_SWAP_SECONDS)
        first = load.first_answer_after(live)
        assert first is not None
        took = wording.seconds(first.at - dropped_at)
        self._good(f"Version {first.version} answers {took} after the last file was written.")
        failed = [call for call in load.calls if call.error]
        slowest = max(call.seconds for call in load.calls)
        self._line(
            f"{len(load.calls):,} requests meanwhile, {len(failed)} failed; "
            f"the slowest took {slowest * 1000:.0f} ms."
        )
        if failed:
            raise DemoFailed(
                f"{len(failed)} of {len(load.calls)} requests failed, the first with {failed[0].error}"
            )
        nines = digits.questions_of(LATER)
        self._line(
            f"{wording.share(count_right(client, nines) / len(nines))} of the kept-back nines are right."
        )

    def _stay(self, client: Client) -> None:
        called = command_name()
        to = "" if self._address == DEFAULT_ADDRESSES.grpc else f" --address {self._address}"
        example = next((self._questions_folder / LATER[0]).iterdir())
        self._chapter("Yours")
        self._line(
            f"It keeps serving: gRPC {self._address}, http://{self._process.addresses.http}/ (health),"
        )
        self._line(f"http://{self._process.addresses.metrics}/metrics. In another terminal:")
        for command in (
            f"{called} versions {MODEL}{to}",
            f"{called} classify {MODEL} {example}{to}",
            f"{called} watch{to}",
        ):
            self._console.print(Text(f"     {command}", style="cyan"), soft_wrap=True)
        self._line("With images of your own, in DIR/MODEL/CLASS/*.jpg:")
        self._console.print(
            Text(f"     {called} serve --watch DIR --state STATE", style="cyan"), soft_wrap=True
        )
        self._line("Ctrl-C ends the demo and removes its files.")
        self._process.wait()
        self._process.check_alive()

    def _chapter(self, title: str) -> None:
        self._chapters += 1
        self._console.print(Text.assemble("\n", (f"{self._chapters}. {title}", "bold")))

    def _line(self, text: str) -> None:
        self._console.print(Text(f"{INDENT}{text}"), soft_wrap=True)

    def _good(self, text: str) -> None:
        self._console.print(Text(f"{INDENT}{text}", style="bold green"), soft_wrap=True)


def count_right(client: Client, questions: Sequence[Digit]) -> int:
    """How many questions are answered with their own label."""
    right = 0
    for start in range(0, len(questions), IMAGES_PER_CALL):
        part = questions[start : start + IMAGES_PER_CALL]
        answers = client.classify(MODEL, [digit.png for digit in part])
        right += sum(answer.label == digit.label for answer, digit in zip(answers, part, strict=True))
    return right


def command_name() -> str:
    """How the person called us, to be copied: `tlserve`, `.venv/bin/tlserve` or `.../python -m tlserve`."""
    called = Path(sys.argv[0])
    return sys.argv[0] if called.name == "tlserve" else f"{sys.executable} -m tlserve"


def _collect(address: str, events: queue.Queue[ModelEvent]) -> None:
    with contextlib.suppress(TlserveError), Client(address, timeout_seconds=None) as client:
        for event in client.watch(MODEL):
            events.put(event)


def _waiting(events: queue.Queue[ModelEvent], *, pause_seconds: float) -> Iterable[ModelEvent]:
    """What has come so far, waiting a little for the first."""
    with contextlib.suppress(queue.Empty):
        yield events.get(timeout=pause_seconds)
        while True:
            yield events.get_nowait()
