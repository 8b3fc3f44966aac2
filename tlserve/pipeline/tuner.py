"""The tuner: one fine-tuning in a process of its own, beside the trainer, which goes on with drops.

It reads the order that the trainer left, touches neither catalog nor cache, keeps its checkpoints and its
own caches in the model's tuning folder, and leaves a new build and a result there. Killed, it goes on from
the last checkpoint when it is started again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from tlserve.core.errors import BackboneProblem, TlserveError
from tlserve.core.messages import TrainerReady, Tuned, TuneJob, TuneProgressed
from tlserve.core.plan import Strategy
from tlserve.core.tuning import TuneOptions, TuneProgress
from tlserve.core.wire import as_json
from tlserve.pipeline.channel import Channel
from tlserve.pipeline.ordering import HEAD, TuneOrder, TuneResult, read_order, write_result
from tlserve.pipeline.trainer import TrainerOptions
from tlserve.plugin_api import TrainableBackbone
from tlserve.plugin_host import PluginHost, make_build
from tlserve.release.head_file import head_from_bytes
from tlserve.release.layout import StateLayout
from tlserve.runtime import BuildSpec, choose_device

log = logging.getLogger("tlserve.pipeline")


class Tuner:
    """Does one job and waits to be ended."""

    def __init__(self, options: TrainerOptions, channel: Channel) -> None:
        self._options, self._channel = options, channel
        self._layout = StateLayout(options.state)

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
                lambda: self._channel.cancelled(job.job_id),
            )
        except TuningCancelled:
            return Tuned(job.job_id, job.model, None, "stopped on request", cancelled=True)
        except TlserveError as exc:
            return Tuned(job.job_id, job.model, None, str(exc), retryable=exc.retryable)
        except Exception as exc:
            log.exception("the fine-tuning of model %r failed", job.model)
            return Tuned(job.job_id, job.model, None, f"unexpected error: {exc!r}", retryable=True)
        write_result(self._layout, job.model, result)
        return Tuned(job.job_id, job.model, result.build, result.report["reason"])


def carry_out(
    order: TuneOrder,
    layout: StateLayout,
    options: TrainerOptions,
    on_progress: Callable[[TuneProgress], None],
    cancelled: Callable[[], bool],
) -> TuneResult:
    """Fine-tune, and make the build of what came of it.

    Raises BackboneProblem, StoreUnavailable and others of ours, TuningCancelled.
    """
    from tlserve.tuning import TuningImage, fine_tune

    began = time.perf_counter()
    device = choose_device(options.device)
    plugins = PluginHost(options.plugin_folders)
    backbone, plugin = plugins.load(order.backbone), plugins.plugin_of(order.backbone)
    if not isinstance(backbone, TrainableBackbone):
        raise BackboneProblem(f"backbone {order.backbone!r} cannot be trained")
    if BuildSpec.of(backbone.info, plugin).digest != order.parent:
        raise BackboneProblem(f"backbone {order.backbone!r} is another one now than when this was ordered")
    work = layout.tuning(order.model)
    tuned = fine_tune(
        backbone,
        [
            TuningImage(one.digest, Path(order.folder) / one.path, one.label, one.group)
            for one in order.images
        ],
        head_from_bytes((work / HEAD).read_bytes()),
        tune_options(order),
        work / "work",
        device="cuda" if device.is_cuda else "cpu",
        max_pixels=order.max_pixels,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    build = make_build(tuned.backbone, plugin, layout.backbones, device).name
    report = {**as_json(tuned.report), "seconds_in_all": round(time.perf_counter() - began, 1)}
    return TuneResult(build, report)


def tune_options(order: TuneOrder) -> TuneOptions:
    """What the strategy and the settings come to."""
    wish = order.wish
    everything = order.strategy in (Strategy.FINETUNE_ALL, Strategy.SCRATCH)
    return TuneOptions(
        unfreeze="all" if everything else wish.unfreeze,
        epochs=wish.epochs,
        views=order.views,
        augment=order.augment,
        activation_cache_gb=wish.activation_cache_gb,
        seed=order.seed,
        scratch=order.strategy is Strategy.SCRATCH,
    )
