"""The tuner: one fine-tuning in a process of its own, beside the trainer, which goes on with drops.

It reads the order that the trainer left, touches neither catalog nor cache, keeps its checkpoints and its
own caches in the model's tuning folder, and leaves a new build and a result there. Killed, it goes on from
the last checkpoint when it is started again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tlserve.core.errors import BackboneProblem, TlserveError
from tlserve.core.messages import TrainerReady, Tuned, TuneJob, TuneProgressed
from tlserve.core.precision import Precision
from tlserve.core.tuning import TuneProgress
from tlserve.core.wire import as_json
from tlserve.pipeline.bench import VALIDATION_FILE
from tlserve.pipeline.channel import Channel
from tlserve.pipeline.options import TrainerOptions
from tlserve.pipeline.ordering import (
    TuneImage,
    TuneOrder,
    TuneResult,
    forget_tuning,
    read_order,
    tune_options,
    write_result,
)
from tlserve.pipeline.sampling import MOST_FOR_CALIBRATION, decoded, spread
from tlserve.plugin_api import TrainableBackbone
from tlserve.plugin_host import PluginHost, make_build, reduce_build
from tlserve.release.disk import replace_file, store_errors
from tlserve.release.layout import StateLayout
from tlserve.runtime import BuildSpec, Device, choose_device, read_build_spec

log = logging.getLogger("tlserve.pipeline")

LOOK_EVERY_SECONDS = 5.0
WITHDRAWN = "it is not wanted any more"
LEAST_LEFT = 0.9
"""The share of the images that must still be there, as they were ordered."""


class TuningUseless(Exception):
    """There is nothing to be had from this fine-tuning; trying again would end as it did."""


class Tuner:
    """Does one job and waits to be ended."""

    def __init__(self, options: TrainerOptions, channel: Channel) -> None:
        self._options, self._channel = options, channel
        self._layout = StateLayout(options.state)
        self._looked_at, self._withdrawn = time.monotonic(), False

    def run(self) -> None:
        self._channel.send(TrainerReady(os.getpid()))
        while True:
            job = self._channel.next_job()
            assert isinstance(job, TuneJob)
            self._channel.send(self._tuned(job))

    def _tuned(self, job: TuneJob) -> Tuned:
        from tlserve.tuning import TuningCancelled

        order = read_order(self._layout, job.model)
        if order is None:
            return Tuned(job.job_id, job.model, None, "there is no order for it any more")
        try:
            result = carry_out(
                order,
                self._layout,
                self._options,
                lambda progress: self._channel.send(TuneProgressed(job.job_id, job.model, progress)),
                lambda: self._channel.cancelled(job.job_id) or self._is_withdrawn(order),
            )
        except TuningCancelled:
            return Tuned(job.job_id, job.model, None, WITHDRAWN, cancelled=True)
        except TuningUseless as exc:
            forget_tuning(self._layout, job.model)
            return Tuned(job.job_id, job.model, None, str(exc))
        except TlserveError as exc:
            return Tuned(job.job_id, job.model, None, str(exc), retryable=exc.retryable)
        except Exception as exc:
            log.exception("the fine-tuning of model %r failed", job.model)
            return Tuned(job.job_id, job.model, None, f"unexpected error: {exc!r}", retryable=True)
        return self._delivered(job, order, result)

    def _delivered(self, job: TuneJob, order: TuneOrder, result: TuneResult) -> Tuned:
        if read_order(self._layout, job.model) != order:
            return Tuned(job.job_id, job.model, None, WITHDRAWN, cancelled=True)
        write_result(self._layout, job.model, result)
        return Tuned(job.job_id, job.model, result.build, result.report["reason"])

    def _is_withdrawn(self, order: TuneOrder) -> bool:
        """Whether another order has taken its place, or none; looked at every few seconds."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_SECONDS:
            self._looked_at = now
            self._withdrawn = read_order(self._layout, order.model) != order
        return self._withdrawn


def carry_out(
    order: TuneOrder,
    layout: StateLayout,
    options: TrainerOptions,
    on_progress: Callable[[TuneProgress], None],
    cancelled: Callable[[], bool],
) -> TuneResult:
    """Fine-tune, and make the build of what came of it.

    Raises TuningUseless when no epoch helped or too few of the images are left, BackboneProblem,
    StoreUnavailable and others of ours, TuningCancelled.
    """
    from tlserve.tuning import TuningImage, fine_tune

    began = time.perf_counter()
    device = choose_device(options.device)
    plugins = PluginHost(options.plugin_folders)
    backbone, plugin = plugins.load(order.backbone), plugins.plugin_of(order.backbone)
    if not isinstance(backbone, TrainableBackbone):
        raise BackboneProblem(f"backbone {order.backbone!r} cannot be trained")
    if BuildSpec.of(backbone.info, plugin, order.precision).digest != order.parent:
        raise BackboneProblem(f"backbone {order.backbone!r} is another one now than when this was ordered")
    folder = Path(order.folder)
    images = still_there(order)
    done = fine_tune(
        backbone,
        [TuningImage(one.digest, folder / one.path, one.label, one.group) for one in images],
        tune_options(order.strategy, order.wish, order.augment, order.views, order.seed),
        layout.tuning(order.model) / "work",
        device=device.name,
        max_pixels=order.max_pixels,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    if done.report.best_epoch == 0:
        raise TuningUseless(done.report.reason)
    build = make_build(done.backbone, plugin, layout.backbones, device)
    build = as_precise_as_its_parent(build, order, images, device)
    with store_errors(build, "write in"):
        replace_file(build / VALIDATION_FILE, json.dumps(sorted(done.validation_digests)).encode())
    report = {**as_json(done.report), "seconds": round(time.perf_counter() - began, 1)}
    return TuneResult(build.name, report)


def as_precise_as_its_parent(
    build: Path, order: TuneOrder, images: Sequence[TuneImage], device: Device
) -> Path:
    """The tuned build reduced to the precision of the build it comes from; itself where that fails."""
    if order.precision == Precision.FP32:
        return build
    files = [Path(order.folder) / one.path for one in spread(images, MOST_FOR_CALIBRATION, of_each=1)]
    pictures = decoded(files, read_build_spec(build).image, order.max_pixels)
    try:
        return reduce_build(build, Precision(order.precision), pictures, device)
    except BackboneProblem as exc:
        log.warning("the fine-tuned backbone of model %r stays fp32: %s", order.model, exc)
        return build


def still_there(order: TuneOrder) -> list[TuneImage]:
    """The images that are still what they were when this was ordered.

    Raises TuningUseless when a tenth of them is gone, or a class.
    """
    folder = Path(order.folder)
    images = [image for image in order.images if _is_there(folder / image.path, image.digest)]
    classes = {image.label for image in order.images} - {image.label for image in images}
    if len(images) < LEAST_LEFT * len(order.images) or classes:
        raise TuningUseless(f"only {len(images)} of {len(order.images)} images are still what they were")
    return images


def _is_there(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False
