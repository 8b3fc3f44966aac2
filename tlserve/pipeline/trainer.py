"""The trainer's loop: take a job, do it, say how it ended. Everything costly stays warm between jobs."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path

from tlserve.core.backbones import BackboneDescription, Speed
from tlserve.core.errors import BackboneNotFound, TlserveError
from tlserve.core.messages import (
    BackboneDescribed,
    BackboneEntry,
    BackbonesChecked,
    BackbonesListed,
    CheckBackbonesJob,
    Compared,
    CompareJob,
    DescribeBackboneJob,
    Exported,
    ExportFileJob,
    ExportJob,
    Job,
    ListBackbonesJob,
    PassDone,
    PassJob,
    ReportJob,
    ReportWritten,
    TrainerReady,
    TuneJob,
)
from tlserve.core.plan import Depth
from tlserve.core.precision import Precision
from tlserve.ingest import Catalog, ReconcileCancelled
from tlserve.pipeline.channel import Channel
from tlserve.pipeline.comparing import compare
from tlserve.pipeline.options import TrainerOptions
from tlserve.pipeline.passes import run_pass
from tlserve.pipeline.reporting import write_page
from tlserve.pipeline.telling import Cancelled
from tlserve.pipeline.workshop import Workshop
from tlserve.plugin_api import TrainableBackbone
from tlserve.release.disk import replace_file
from tlserve.release.layout import StateLayout
from tlserve.report import render_comparison
from tlserve.runtime import BuildSpec, read_build_spec
from tlserve.training import TrainingCancelled

log = logging.getLogger("tlserve.pipeline")


class Trainer:
    """Does jobs one after the other, forever."""

    def __init__(self, options: TrainerOptions, channel: Channel) -> None:
        self._channel = channel
        self._layout = StateLayout(options.state)
        self._options = options

    def run(self) -> None:
        with Catalog(self._layout.catalog) as catalog:
            shop = Workshop(
                self._layout,
                catalog,
                device=self._options.device,
                threads=self._options.threads,
                plugin_folders=self._options.plugin_folders,
                gram_cache_mb=self._options.gram_cache_mb,
            )
            for job in catalog.unfinished_jobs():
                catalog.job_ended(job.job_id, "killed", "the trainer died during this job")
            self._channel.send(TrainerReady(os.getpid()))
            while True:
                while shop.is_behind and not self._channel.has_job():
                    shop.catch_up(stop=self._channel.has_job)
                self._do(self._channel.next_job(), shop)

    def _do(self, job: Job, shop: Workshop) -> None:
        match job:
            case PassJob():
                self._pass(job, shop)
            case ExportJob():
                self._export(job, shop)
            case ExportFileJob():
                self._export_file(job, shop)
            case ReportJob():
                self._report(job, shop)
            case CompareJob():
                self._compare(job, shop)
            case TuneJob():
                raise AssertionError("fine-tuning is the tuner's work")
            case ListBackbonesJob():
                self._list_backbones(job, shop)
            case CheckBackbonesJob():
                self._check_backbones(job, shop)
            case DescribeBackboneJob():
                self._describe_backbone(job, shop)

    def _pass(self, job: PassJob, shop: Workshop) -> None:
        shop.catalog.job_started(job.job_id, job.model, job.recipe.backbone)
        if job.depth not in (Depth.INSTANT, Depth.QUICK):
            # It may take long, and nobody waits for it.
            shop.catch_up(everything=True, stop=lambda: self._channel.cancelled(job.job_id))
        try:
            done = run_pass(job, shop, self._channel.send, lambda: self._channel.cancelled(job.job_id))
        except TlserveError as exc:
            done = PassDone(job.job_id, job.model, "failed", str(exc), retryable=exc.retryable)
        except Exception as exc:
            log.exception("the pass over model %r failed", job.model)
            done = PassDone(job.job_id, job.model, "failed", f"unexpected error: {exc!r}", retryable=True)
        shop.catalog.job_ended(job.job_id, done.outcome, done.reason)
        self._channel.send(done)
        try:
            # After the news, which must not wait for it, nor fail with it.
            shop.tidy()
        except TlserveError:
            log.exception("the bottleneck cache could not be compacted")

    def _export(self, job: ExportJob, shop: Workshop) -> None:
        path, error = "", None
        try:
            path = str(shop.write_triton(job.model, job.live, job.pinned))
        except Exception as exc:
            error = _words(exc, f"the export of model {job.model!r}")
        self._channel.send(Exported(job.job_id, job.model, job.live, path, error))

    def _export_file(self, job: ExportFileJob, shop: Workshop) -> None:
        error = None
        try:
            shop.export_file(job.model, job.version, Path(job.path))
        except Exception as exc:
            error = _words(exc, f"the export of model {job.model!r} version {job.version}")
        self._channel.send(Exported(job.job_id, job.model, job.version, job.path, error))

    def _report(self, job: ReportJob, shop: Workshop) -> None:
        error = None
        try:
            write_page(shop, job.model, job.version, Path(job.folder))
        except Exception as exc:
            error = _words(exc, f"the report of model {job.model!r} version {job.version}")
        self._channel.send(
            ReportWritten(job.job_id, str(shop.versions.page_path(job.model, job.version)), error)
        )

    def _compare(self, job: CompareJob, shop: Workshop) -> None:
        try:
            found = compare(job, shop, self._channel.send, lambda: self._channel.cancelled(job.job_id))
            told = Compared(job.job_id, json.dumps(found), render_comparison(found))
        except (Cancelled, ReconcileCancelled, TrainingCancelled):
            told = Compared(job.job_id, "", cancelled=True)
        except Exception as exc:
            told = Compared(job.job_id, "", error=_words(exc, f"the comparison for model {job.model!r}"))
        self._channel.send(told)

    def _list_backbones(self, job: ListBackbonesJob, shop: Workshop) -> None:
        shop.plugins.reload()
        entries = shop.plugins.catalogue()
        try:
            replace_file(
                self._layout.catalogue, json.dumps([asdict(entry) for entry in entries], indent=1).encode()
            )
        except OSError:
            log.exception("backbones.json was not written; it answers while a pass runs")
        self._channel.send(BackbonesListed(job.job_id, entries))

    def _check_backbones(self, job: CheckBackbonesJob, shop: Workshop) -> None:
        shop.plugins.reload()
        checked = tuple(_checked(name, shop) for name in job.names)
        self._channel.send(BackbonesChecked(job.job_id, checked))

    def _describe_backbone(self, job: DescribeBackboneJob, shop: Workshop) -> None:
        try:
            found = described(job.name, shop, measure=job.measure, precision=job.precision)
            self._channel.send(BackboneDescribed(job.job_id, found))
        except Exception as exc:
            error = _words(exc, f"the description of backbone {job.name!r}")
            not_found = isinstance(exc, BackboneNotFound)
            self._channel.send(BackboneDescribed(job.job_id, None, error, not_found))


def described(name: str, shop: Workshop, *, measure: bool, precision: Precision) -> BackboneDescription:
    """Load a backbone and tell all about it. Raises TlserveError, such as BackboneNotFound.

    measure: make its build too, unless it is there, and run that. precision: which build, where it is made.
    """
    shop.plugins.reload()
    plugin = shop.plugins.plugin_of(name)
    backbone = shop.plugins.load(name)
    spec = BuildSpec.of(backbone.info, plugin)
    speeds: tuple[Speed, ...] = ()
    if measure or (shop.layout.backbones / spec.digest).is_dir():
        folder = shop.settled(name, precision)
        spec = read_build_spec(folder)
        speeds = shop.measure(folder) if measure else ()
    return BackboneDescription(
        name=name,
        plugin=plugin,
        source=shop.plugins.source_of(plugin),
        info=backbone.info,
        trainable=isinstance(backbone, TrainableBackbone),
        build=spec.digest,
        speeds=speeds,
        precision=spec.precision,
        trial=spec.trial,
    )


def _checked(name: str, shop: Workshop) -> BackboneEntry:
    """What loading a backbone tells: enough to know that plugin and weights are there. Builds nothing."""
    plugin = ""
    try:
        plugin = shop.plugins.plugin_of(name)
        info = shop.plugins.load(name).info
    except Exception as exc:
        return BackboneEntry(name, plugin, error=_words(exc, f"the check of backbone {name!r}"))
    size = (
        f"{info.n_parameters / 1e6:.1f} million parameters, {info.image.width} x {info.image.height} pixels"
    )
    return BackboneEntry(name, plugin, f"{size}, {info.taps[-1].width} features; licence: {info.licence}")


def _words(exc: Exception, doing: str) -> str:
    if isinstance(exc, TlserveError):
        return str(exc)
    log.error("%s failed", doing, exc_info=exc)
    return f"unexpected error: {exc!r}"
