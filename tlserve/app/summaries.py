"""What people are told of a model: the board, the releases and the settings in one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlserve.core.lifecycle import Phase
from tlserve.core.types import Problem
from tlserve.rpc.backend import Duration, ModelStatistics, ModelSummary
from tlserve.serving import VersionStatistics

if TYPE_CHECKING:
    from tlserve.app.daemon import Daemon


def summary_of(daemon: Daemon, model: str) -> ModelSummary:
    """One line of `tlserve models`; touches no disk."""
    now = daemon.board.now(model)
    state = daemon.releases.state(model)
    manifest = daemon.releases.live_manifest(model)
    message = daemon.releases.failures.get(model, now.message)
    recipe = daemon.recipe(model)
    backbone = manifest.backbone if manifest else recipe.backbone
    if now.tuning:
        message = f"{message}; {now.tuning}"
    return ModelSummary(
        model=model,
        phase=now.phase.value,
        ready=daemon.server_ready() and daemon.pool.ready(model),
        live=state.live,
        previous=state.previous,
        promotion=recipe.promotion.value,
        images=now.n_images or (manifest.n_images if manifest else 0),
        counts=now.counts or (manifest.counts if manifest else {}),
        accuracy=manifest.accuracy if manifest else None,
        accuracy_low=manifest.accuracy_low if manifest else None,
        accuracy_high=manifest.accuracy_high if manifest else None,
        backbone=backbone,
        message=message,
        problems=now.problems,
        n_problems=now.n_problems,
        done=now.done,
        total=now.total,
        per_second=now.per_second,
        seconds_left=now.seconds_left,
        wanted_backbone=recipe.backbone if recipe.backbone != backbone else "",
    )


def unusable_folder(problem: Problem) -> ModelSummary:
    """The line of a folder that cannot be a model."""
    return ModelSummary(
        model=problem.where,
        phase=Phase.WAITING.value,
        ready=False,
        live=None,
        previous=None,
        promotion="",
        images=0,
        counts={},
        accuracy=None,
        accuracy_low=None,
        accuracy_high=None,
        backbone="",
        message=problem.reason,
    )


def statistics_of(counted: VersionStatistics) -> ModelStatistics:
    """The pool's count of one version, as the front ends give it."""
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    durations = {stage: getattr(counted, stage) for stage in stages}
    return ModelStatistics(
        model=counted.model,
        version=counted.version,
        last_inference_ms=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        **{stage: Duration(taken.count, taken.total_ns) for stage, taken in durations.items()},
    )
