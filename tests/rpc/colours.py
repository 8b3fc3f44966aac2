"""A small honest backend for the services: it tells red, green and blue images apart.

Version 1 knows two colours, version 2 three. Decoding, arithmetic, events and files are real; only the
size of the model is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from tests.support_build import tiny_info
from tlserve.core.backbones import BackboneDescription, Speed
from tlserve.core.errors import (
    BadImage,
    DeadlinePassed,
    Draining,
    NotFound,
    NotTrained,
    QueueFull,
    UnknownModel,
    UnknownVersion,
)
from tlserve.core.types import Features, Pixels
from tlserve.rpc.backend import (
    AddedImage,
    Answer,
    BackboneLine,
    Comparison,
    Duration,
    ModelEvent,
    ModelStatistics,
    ModelSummary,
    ServedModelInfo,
    VersionLine,
)

LABELS = {1: ("green", "red"), 2: ("blue", "green", "red")}
_AXES = {"red": 0, "green": 1, "blue": 2}
MODEL = "colours"
EMPTY = "empty"
NANO = BackboneDescription(
    name="nano",
    plugin="nano",
    source="package nano",
    info=tiny_info(name="itself"),
    trainable=True,
    build="0" * 64,
    build_folder="/state/backbones/0",
    build_bytes=5_000_000,
)

BACKBONES = (
    BackboneLine("nano", "nano", "tiny", None, "MIT", 1_034_528, 32, 48, 24, 210.4, "files"),
    BackboneLine("broken", "mine", "", "no weights"),
)


class ColourBackend:
    """Model `colours` has versions 1 and 2 (live); model `empty` is not trained yet."""

    def __init__(self, watch: Path, *, queue_rows: int = 1024) -> None:
        self.watch_root = watch
        self.queue_rows = queue_rows
        self.live, self.previous = 2, 1
        self.pinned: set[int] = set()
        self.promotion = "auto"
        self.adopted = ""
        self.compared: list[tuple[str, list[str]]] = []
        self.draining = False
        self.gate = asyncio.Event()
        """Predictions wait until it is set; set from the start."""
        self.gate.set()
        self.working = 0
        self.cancelled = 0
        self.answered_images = 0
        self.retrained: list[tuple[str, bool]] = []
        self.watchers: list[asyncio.Queue[ModelEvent]] = []
        self.backbones: Sequence[BackboneLine] = BACKBONES
        self.description = NANO

    async def until(self, condition: Callable[[ColourBackend], bool]) -> None:
        """Wait until `condition` holds; fails after five seconds."""
        give_up = asyncio.get_running_loop().time() + 5
        while not condition(self):
            assert asyncio.get_running_loop().time() < give_up, "it did not come about within 5 seconds"
            await asyncio.sleep(0.005)

    # -- predictions

    async def predict(
        self, model: str, version: str, images: Sequence[bytes] | Pixels, *, timeout_seconds: float | None
    ) -> Answer:
        number = self._number(model, version)
        if self.draining:
            raise Draining
        if self.working + len(images) > self.queue_rows:
            raise QueueFull(waiting_rows=self.working, limit_rows=self.queue_rows)
        features = _mean_colours(images)
        self.working += len(images)
        try:
            await asyncio.wait_for(self.gate.wait(), timeout_seconds)
        except TimeoutError as exc:
            raise DeadlinePassed("the deadline passed in the queue") from exc
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.working -= len(images)
        self.answered_images += len(images)
        return _answer(model, number, features)

    def server_ready(self) -> bool:
        return not self.draining

    def model_ready(self, model: str, version: str) -> bool:
        try:
            self._number(model, version)
        except (UnknownModel, UnknownVersion, NotTrained):
            return False
        return True

    async def served_model(self, model: str, version: str) -> ServedModelInfo:
        number = self._number(model, version)
        return ServedModelInfo(model, number, (1, 2), LABELS[number], 3, 8, 8, 32)

    def statistics(self, model: str, version: str) -> Sequence[ModelStatistics]:
        if model:
            self._number(model, version)
        done = Duration(count=self.answered_images, total_ns=self.answered_images * 1000)
        return [
            ModelStatistics(MODEL, self.live, 1234, self.answered_images, self.answered_images, success=done)
        ]

    # -- models and versions

    def list_models(self) -> Sequence[ModelSummary]:
        return [self.get_model(MODEL), self.get_model(EMPTY)]

    def get_model(self, model: str) -> ModelSummary:
        if model == EMPTY:
            return ModelSummary(
                EMPTY, "waiting", False, None, None, "auto", 0, {}, None, None, None, "nano",
                "waits for images in 2 classes",
                problems=(("bad_image", "a\udcff.jpg", "truncated"),), n_problems=1,
            )  # fmt: skip
        if model != MODEL:
            raise UnknownModel(model, (MODEL, EMPTY))
        return ModelSummary(
            MODEL, "idle", True, self.live, self.previous, self.promotion, 30,
            {"red": 10, "green": 10, "blue": 10},
            0.9, 0.8, 0.95, "nano", "serves version 2", wanted_backbone=self.adopted,
        )  # fmt: skip

    async def list_versions(self, model: str) -> Sequence[VersionLine]:
        self.get_model(model)
        return [self._line(1), self._line(2)]

    async def get_report(self, model: str, version: str) -> Mapping[str, Any]:
        return {"version": self._number(model, version), "classes": [{"label": "red", "recall": 1.0}]}

    async def report_page(self, model: str, version: str) -> str:
        return f"<!doctype html><title>{model} {self._number(model, version)} é</title>"

    async def watch(self, model: str) -> AsyncIterator[ModelEvent]:
        if model:
            self.get_model(model)
        events: asyncio.Queue[ModelEvent] = asyncio.Queue()
        self.watchers.append(events)
        try:
            while True:
                event = await events.get()
                if not model or event.model == model:
                    yield event
        finally:
            self.watchers.remove(events)

    def tell(self, event: ModelEvent) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(event)

    # -- what a person decides

    async def retrain(self, model: str, *, accept_deletions: bool) -> str:
        self.get_model(model)
        self.retrained.append((model, accept_deletions))
        return f"job-{len(self.retrained)}"

    async def promote(self, model: str, version: str) -> VersionLine:
        number = self._number(model, version)
        if number != self.live:
            self.live, self.previous = number, self.live
        return self._line(number)

    async def rollback(self, model: str) -> VersionLine:
        self.promotion = "manual"
        return await self.promote(model, str(self.previous))

    async def pin(self, model: str, version: str, *, pinned: bool) -> VersionLine:
        number = self._number(model, version)
        self.pinned = self.pinned | {number} if pinned else self.pinned - {number}
        return self._line(number)

    async def set_promotion(self, model: str, mode: str) -> ModelSummary:
        self.promotion = mode or "auto"
        return self.get_model(model)

    async def set_backbone(self, model: str, backbone: str) -> ModelSummary:
        self.get_model(model)
        if backbone:
            await self.get_backbone(backbone, measure=False)
        self.adopted = backbone
        return self.get_model(model)

    async def compare(self, model: str, backbones: Sequence[str]) -> Comparison:
        """Waits for the gate. Each backbone is as good as its name is long; `broken` cannot be used."""
        self.get_model(model)
        self.compared.append((model, list(backbones)))
        rows = [_compared(name) for name in backbones]
        self.working += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.working -= 1
        found = {"model": model, "n_images": 30, "n_classes": 3, "device": "cpu", "rows": rows}
        return Comparison(found, f"<!doctype html><title>backbones for {model} é</title>")

    async def add_image(self, model: str, label: str, name: str, data: bytes) -> AddedImage:
        path = self.watch_root / model / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists() and path.read_bytes() == data
        if path.exists() and not there:
            path = path.with_stem(path.stem + "-1")
        path.write_bytes(data)
        return AddedImage(str(path.relative_to(self.watch_root)), hashlib.sha256(data).hexdigest(), there)

    async def export(self, model: str, version: str) -> bytes:
        number = self._number(model, version)
        return np.random.default_rng(number).bytes(2_500_000)

    async def list_backbones(self) -> Sequence[BackboneLine]:
        return self.backbones

    async def get_backbone(self, name: str, *, measure: bool) -> BackboneDescription:
        if name != "nano":
            raise NotFound(f"no plugin offers {name!r}; did you mean nano?")
        speed = Speed("backbone", 32, 99.5, "cpu", "a processor", 2, 1.5)
        return replace(self.description, speeds=(speed,) if measure else ())

    # -- inside

    def _number(self, model: str, version: str) -> int:
        if model == EMPTY:
            raise NotTrained(model, "it waits for images in 2 classes")
        if model != MODEL:
            raise UnknownModel(model, (MODEL, EMPTY))
        named = {"": self.live, "live": self.live, "previous": self.previous}
        number = named[version] if version in named else int(version)
        if number not in LABELS:
            raise UnknownVersion(model, version, tuple(LABELS))
        return number

    def _line(self, number: int) -> VersionLine:
        state = {self.live: "live", self.previous: "previous"}[number]
        line = VersionLine(
            number, state, 30, LABELS[number], 0.9, "nano", "2026-01-01T00:00:00Z", "first", None
        )
        return replace(line, pinned=number in self.pinned, drop_to_live_seconds=1.5 if number == 2 else None)


def _compared(name: str) -> dict[str, Any]:
    if name == "broken":
        return {"backbone": name, "error": "no weights; put them under weights/"}
    share = min(len(name), 9) / 10
    return {
        "backbone": name, "error": None, "live": name == "nano", "licence": "MIT", "n_parameters": 1_034_528,
        "row_width": 24, "head": "softmax", "accuracy": share, "accuracy_low": share - 0.01,
        "accuracy_high": share + 0.01, "extract_seconds": 12.5, "images_per_second": 2.4,
        "train_seconds": 0.25, "predict_ms": 4.24, "graph_mb": 2.68,
    }  # fmt: skip


def _mean_colours(images: Sequence[bytes] | Pixels) -> Features:
    """(N, 3) float32 in [0, 1]."""
    if isinstance(images, np.ndarray):
        return images.mean(axis=(1, 2), dtype=np.float32) / np.float32(255)
    return np.stack([_mean_colours(_decode(data)[np.newaxis])[0] for data in images])


def _decode(data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as exc:
        raise BadImage(f"not an image: {exc}") from exc


def _answer(model: str, version: int, features: Features) -> Answer:
    labels = LABELS[version]
    odds = np.exp(5 * features[:, [_AXES[label] for label in labels]])
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    novelty = (1 - features.max(axis=1)).astype(np.float32)
    return Answer(model, version, labels, probabilities, features, novelty, novelty > 0.9)


def picture(colour: str, *, size: int = 8) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(*colours: tuple[int, int, int], size: int = 8) -> Pixels:
    return np.stack([np.full((size, size, 3), colour, dtype=np.uint8) for colour in colours])


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
