"""A daemon with room for fewer backbones than its models stand on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.flow.daemon_process import DaemonProcess, ask, draw_shapes, label_of, running, wait_until

ONE_AT_A_TIME = {**os.environ, "TLSERVE_MAX_BACKBONES": "1", "TLSERVE_PRECISION": "fp32"}


def test_models_on_more_backbones_than_fit_all_answer_before_and_after_a_restart(
    shared: Callable[[str], Path], make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    other = shared("backbones/mobilenet_v2_imagenet.onnx")
    for seed, model in enumerate(("small", "large")):
        for shape in ("disc", "bar"):
            draw_shapes(tmp_path / "watch" / model / shape, shape, 12, seed=seed)
    (tmp_path / "watch" / "large" / "model.toml").write_text(f'backbone = "onnx:{other}"\n')
    disc = sorted((tmp_path / "watch" / "large" / "disc").iterdir())[0].read_bytes()

    daemon = replace(make_daemon("nano"), env=ONE_AT_A_TIME)
    with running(daemon), triton.InferenceServerClient(daemon.address) as client:
        wait_until(lambda: daemon.metric("tlserve_live_version") == 2, "both models were trained")
        for model in ("small", "large", "small"):
            assert label_of(ask(client, model, disc)) == "disc"
            assert daemon.metric("tlserve_open_builds") == 1
        assert daemon.stop() == 0

    impatient = {**ONE_AT_A_TIME, "TLSERVE_LOAD_PATIENCE_SECONDS": "0"}
    with (
        running(replace(daemon, env=impatient)) as daemon,
        triton.InferenceServerClient(daemon.address) as client,
    ):
        assert client.is_model_ready("small")
        assert client.is_model_ready("large")
        assert daemon.metric("tlserve_backbone_loads_total") == 1
        cold = next(model for model in ("large", "small") if is_cold(client, model, disc))
        wait_until(lambda: daemon.metric("tlserve_backbone_loads_total") >= 2, "the cold backbone was loaded")
        assert label_of(ask(client, cold, disc)) == "disc"
        assert daemon.metric("tlserve_cold_waits_total") >= 1
        assert daemon.metric("tlserve_backbone_evictions_total") >= 1


def is_cold(client: triton.InferenceServerClient, model: str, image: bytes) -> bool:
    """Whether a request is told that the backbone is not there; it is being loaded from then on."""
    try:
        ask(client, model, image)
    except InferenceServerException as error:
        assert error.status() == "StatusCode.UNAVAILABLE"
        assert "is being loaded" in str(error)
        return True
    return False
