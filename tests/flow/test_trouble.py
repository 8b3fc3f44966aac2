"""What goes wrong in real life: bad files, odd folders, a killed trainer, a second daemon, no weights."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.flow.daemon_process import DaemonProcess, ask, draw_shapes, running, version_of, wait_until
from tlserve.client import Client
from tlserve.core.errors import InvalidRequest, NotFound, NotReady, Unavailable

GIVE_UP_SECONDS = 60.0


def trainer_of(daemon: DaemonProcess) -> psutil.Process | None:
    assert daemon.process is not None
    for child in psutil.Process(daemon.process.pid).children():
        with contextlib.suppress(psutil.Error):  # one that was killed a moment ago
            if "tlserve.pipeline" in " ".join(child.cmdline()):
                return child
    return None


def huge_png(side: int) -> bytes:
    """A sound black PNG of side x side pixels: a few kilobytes that want 3 * side * side bytes as RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    one_bit_grey = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", one_bit_grey), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    )


def tensor(name: str, value: np.ndarray, datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(value.shape), datatype)
    made.set_data_from_numpy(value)
    return made


def test_bad_files_are_named_and_the_rest_goes_live(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    good = sorted((shapes / "disc").iterdir())[0].read_bytes()
    (shapes / "disc" / "truncated.png").write_bytes(good[: len(good) // 2])
    (shapes / "disc" / "fake.jpg").write_text("not an image at all")
    (shapes / "disc" / "empty.png").write_bytes(b"")
    (shapes / "bar" / "same-as-a-disc.png").write_bytes(good)
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the good files went live")
        problems = {where: (kind, reason) for kind, where, reason in client.model("shapes").problems}
    assert problems["disc/truncated.png"][0] == "bad_image"
    assert problems["disc/fake.jpg"][0] == "bad_image"
    assert "empty" in problems["disc/empty.png"][1]
    assert any(kind == "conflict" for kind, _ in problems.values())
    assert (shapes / "disc" / "fake.jpg").read_text() == "not an image at all"


def test_models_that_cannot_be_trained_say_what_they_lack(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    draw_shapes(shapes.parent / "lonely" / "only", "disc", 5, seed=5)
    (shapes.parent / "bad name!").mkdir()
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("lonely").phase == "waiting", "the one-class model waits")
        assert "2 class folders" in client.model("lonely").message
        with pytest.raises(NotReady, match="2 class folders"):
            client.classify("lonely", [sorted((shapes / "disc").iterdir())[0]])
        messages = {summary.model: summary.message for summary in client.models()}
        assert "rename the folder" in messages["bad name!"]
        with pytest.raises(NotFound, match="unknown model"):
            client.classify("nobody", [b"x"])


def test_a_killed_trainer_costs_only_time(shapes: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        first = trainer_of(daemon)
        assert first is not None
        draw_shapes(shapes / "frame", "frame", 25, seed=7)
        wait_until(lambda: client.model("shapes").phase not in ("idle", "settling"), "the pass began")
        first.send_signal(signal.SIGKILL)
        image = sorted((shapes / "disc").iterdir())[0]
        assert client.classify("shapes", [image])[0].version == 1
        wait_until(lambda: "frame" in client.versions("shapes")[-1].classes, "the new class, after the kill")
        wait_until(lambda: client.model("shapes").live != 1, "the new version went live")
        second = trainer_of(daemon)
        assert second is not None
        assert second.pid != first.pid


def test_a_second_daemon_on_the_same_state_is_refused_by_name(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    with running(daemon):
        command = [sys.executable, "-m", "tlserve", "train", str(shapes), "--state", str(daemon.state)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "in use by tlserve serve" in refused.stderr
        assert "Traceback" not in refused.stderr

        assert daemon.process is not None
        command = [sys.executable, "-m", "tlserve", "serve", "--watch", str(daemon.watch)]
        command += ["--state", str(daemon.state), "--grpc", "127.0.0.1:0"]
        quiet = {**os.environ, "TLSERVE_HTTP": "", "TLSERVE_METRICS": ""}
        second = subprocess.run(
            command, capture_output=True, text=True, check=False, env=quiet, timeout=GIVE_UP_SECONDS
        )
        assert second.returncode == 1
        assert f"in use by tlserve serve (process {daemon.process.pid})" in second.stderr
        assert "Traceback" not in second.stderr
        with Client(daemon.address) as client:
            assert client.ready()


def test_a_backbone_that_is_not_there_is_named_and_nothing_else_breaks(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("onnx:/nowhere/model.onnx")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").phase == "failed", "the pass failed")
        assert "/nowhere/model.onnx" in client.model("shapes").message
        (shapes / "model.toml").write_text('backbone = "nano"\n')
        wait_until(lambda: client.model("shapes").live == 1, "the mended model went live")


def test_a_broken_model_toml_is_named(shapes: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    (shapes / "model.toml").write_text("max_dorp = 0.1\n")
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").phase == "failed", "the pass failed")
        assert "max_dorp" in client.model("shapes").message


def test_hostile_requests_get_their_status_and_the_server_stays_up(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        good = sorted((shapes / "disc").iterdir())[0].read_bytes()
        for garbage in (b"", b"garbage", good[: len(good) // 2]):
            with pytest.raises(InvalidRequest):
                client.classify("shapes", [garbage])
        with pytest.raises(InvalidRequest):
            client.classify("shapes", [])
        for name in ("../shapes", "shapes/../shapes", "a" * 5000):
            with pytest.raises((NotFound, InvalidRequest)):
                client.classify(name, [good])
        with triton.InferenceServerClient(daemon.address) as outside:
            with pytest.raises(InferenceServerException, match="NOT_FOUND"):
                ask(outside, "shapes", good, "77")
            assert version_of(ask(outside, "shapes", good)) == 1


def test_requests_of_the_wrong_size_or_kind_are_refused_quickly_and_the_server_stays_up(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    bomb = huge_png(10_000)
    assert len(bomb) < 20_000
    good = sorted((shapes / "disc").iterdir())[0].read_bytes()
    pixels = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    image = tensor("image", np.array([good], dtype=np.object_), "BYTES")
    wrong: list[tuple[list[triton.InferInput], str]] = [
        ([], "0 inputs; give exactly one"),
        ([image, tensor("pixels", pixels, "UINT8")], "2 inputs; give exactly one"),
        ([tensor("pixels", pixels.astype(np.float32), "FP32")], "datatype UINT8, not 'FP32'"),
        ([tensor("image", pixels, "UINT8")], "datatype BYTES, not 'UINT8'"),
    ]
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        with triton.InferenceServerClient(daemon.address) as outside:
            began = time.monotonic()
            with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*max_pixels"):
                ask(outside, "shapes", bomb)
            assert time.monotonic() - began < 2.0
            for inputs, words in wrong:
                with pytest.raises(InferenceServerException, match=rf"INVALID_ARGUMENT.*{words}"):
                    outside.infer("shapes", inputs)
            with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
                ask(outside, "shapes", bytes(65 * 2**20))
            assert version_of(ask(outside, "shapes", good)) == 1
        with pytest.raises(InvalidRequest, match="send fewer images"):
            client.classify("shapes", [bytes(65 * 2**20)])
        (shapes / "disc" / "bomb.png").write_bytes(bomb)
        wait_until(lambda: client.model("shapes").n_problems == 1, "the huge file was seen")
        assert "max_pixels" in client.model("shapes").problems[0][2]


def test_an_old_version_answers_by_its_number(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    image = sorted((shapes / "disc").iterdir())[0].read_bytes()
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        for number in (2, 3):
            client.retrain("shapes")
            wait_until(lambda: len(client.versions("shapes")) == number, "a retrain")  # noqa: B023
            client.promote("shapes", str(number))
        now = client.model("shapes")
        assert (now.live, now.previous) == (3, 2)
        assert client.classify("shapes", [image], version="1")[0].version == 1
        assert client.classify("shapes", [image])[0].version == 3
        with triton.InferenceServerClient(daemon.address) as outside:
            assert version_of(ask(outside, "shapes", image, "1")) == 1
            assert version_of(ask(outside, "shapes", image, "previous")) == 2


def test_no_torch_in_the_running_daemon(shapes: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        client.classify("shapes", [sorted((shapes / "disc").iterdir())[0]])
        assert daemon.process is not None
        mapped = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    for package in ("torch", "torchvision", "sklearn", "scipy"):
        assert f"/site-packages/{package}/" not in mapped
    heavy = ("torch", "torchvision", "sklearn", "onnx")
    code = f"import sys, tlserve.app; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert loaded.stdout.strip() == "[]"


def test_a_stop_under_load_answers_what_is_in_work_and_refuses_the_rest_politely(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    picture = next((shapes / "disc").iterdir()).read_bytes()
    answered = 0
    refusals: list[Exception] = []

    def ask_until_refused() -> None:
        nonlocal answered
        with Client(daemon.address) as client:
            while True:
                try:
                    client.classify("shapes", [picture])
                    answered += 1
                except Exception as exc:
                    refusals.append(exc)
                    return

    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        threads = [threading.Thread(target=ask_until_refused) for _ in range(6)]
        for thread in threads:
            thread.start()
        wait_until(lambda: answered > 30, "the load is on")
        assert daemon.stop() == 0
        for thread in threads:
            thread.join()
    assert [type(exc) for exc in refusals] == [Unavailable] * 6, refusals


def test_health_over_http_follows_the_models(shapes: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        assert daemon.http_status("/v2/health/live") == 200
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        assert daemon.http_status("/v2/health/ready") == 200
        assert daemon.http_status("/v2/models/shapes/ready") == 200
        assert daemon.http_status("/v2/models/nobody/ready") == 503
