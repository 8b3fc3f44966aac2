"""Bound buffers, on a CPU: the class that serves GPUs, with buffers in main memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from tests.flow.daemon_process import wait_until
from tests.support_build import tiny_build, tiny_graph
from tlserve.core.errors import Unavailable
from tlserve.core.types import Pixels, Rows
from tlserve.runtime import GRAPH_FILE, GRAPH_INPUT, GRAPH_OUTPUT, BuildSpec, read_build_spec
from tlserve.runtime.bound import BoundRunner, Place, open_bound

BUCKETS = (4, 1, 8)
HERE = Place("cpu")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_build(tmp_path_factory.mktemp("bound") / "build")


@pytest.fixture(scope="module")
def spec(build: Path) -> BuildSpec:
    return read_build_spec(build)


@pytest.fixture(scope="module")
def plain(build: Path) -> ort.InferenceSession:
    return loaded((build / GRAPH_FILE).read_bytes())


@pytest.fixture(scope="module", params=[False, True], ids=["plain runs", "graph ids"])
def bound(
    request: pytest.FixtureRequest, plain: ort.InferenceSession, spec: BuildSpec
) -> Iterator[BoundRunner]:
    runner = BoundRunner(plain, spec, BUCKETS, HERE, graphs=request.param)
    yield runner
    runner.close()


def loaded(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])


def drawn(n_images: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n_images, 32, 32, 3), np.uint8)


def run(session: ort.InferenceSession, pixels: Pixels) -> Rows:
    (rows,) = session.run([GRAPH_OUTPUT], {GRAPH_INPUT: pixels})
    return np.asarray(rows, np.float32)


def with_last_node(kind: str) -> bytes:
    """The tiny graph with something after it: `batch`, where rows depend on their neighbours, or `noise`."""
    model = tiny_graph(0, 1.0)
    graph = model.graph
    graph.node[-1].output[0] = "own"
    if kind == "batch":
        graph.node.append(helper.make_node("ReduceMean", ["own"], ["others"], axes=[0], keepdims=1))
    else:
        graph.node.append(helper.make_node("RandomNormalLike", ["own"], ["others"], scale=100.0))
    graph.node.append(helper.make_node("Add", ["own", "others"], [GRAPH_OUTPUT]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("n_images", [*range(1, 10), 16, 17, 21])
def test_rows_are_those_of_a_plain_run_bit_for_bit(
    bound: BoundRunner, plain: ort.InferenceSession, n_images: int
) -> None:
    pixels = drawn(n_images, seed=n_images)
    rows = bound.rows(pixels)
    assert (rows.shape, rows.dtype) == ((n_images, 24), np.float32)
    np.testing.assert_array_equal(rows, run(plain, pixels))


def test_rows_stay_as_they_are_when_the_next_batch_comes(bound: BoundRunner) -> None:
    first = bound.rows(drawn(4))
    kept = first.copy()
    bound.rows(drawn(4, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_pixels_that_lie_apart_in_memory_are_read_as_they_are_meant(
    bound: BoundRunner, plain: ort.InferenceSession
) -> None:
    wide = drawn(8).transpose(0, 2, 1, 3)[::2]
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(bound.rows(wide), run(plain, np.ascontiguousarray(wide)))


def test_a_batch_that_was_filled_up_does_not_see_the_pictures_before_it(spec: BuildSpec) -> None:
    session = loaded(with_last_node("batch"))
    runner = BoundRunner(session, spec, (4,), HERE)
    fresh = BoundRunner(session, spec, (4,), HERE)
    runner.rows(np.full((4, 32, 32, 3), 255, np.uint8))
    runner.rows(np.full((3, 32, 32, 3), 255, np.uint8))
    asked = drawn(2)
    np.testing.assert_array_equal(runner.rows(asked), fresh.rows(asked))
    black = np.concatenate([asked, np.zeros((2, 32, 32, 3), np.uint8)])
    np.testing.assert_array_equal(runner.rows(asked), run(session, black)[:2])
    runner.close()
    fresh.close()


def test_callers_at_once_get_their_own_rows(bound: BoundRunner, plain: ort.InferenceSession) -> None:
    batches = [drawn(1 + seed % 11, seed) for seed in range(60)]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(bound.rows, batches))
    for pixels, rows in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(rows, run(plain, pixels))


def test_closing_ends_no_call_that_is_under_way(plain: ort.InferenceSession, spec: BuildSpec) -> None:
    runner = BoundRunner(plain, spec, BUCKETS, HERE)
    pixels = drawn(64)
    expected, answered = run(plain, pixels), threading.Event()

    def call_until_closed() -> int:
        for n_answers in range(100_000):
            try:
                np.testing.assert_array_equal(runner.rows(pixels), expected)
            except Unavailable:
                return n_answers
            answered.set()
        raise AssertionError("it never closed")

    with ThreadPoolExecutor(3) as callers:
        calling = [callers.submit(call_until_closed) for _ in range(3)]
        assert answered.wait(20)
        runner.close()
        assert sum(one.result(20) for one in calling) >= 1
    runner.close()
    with pytest.raises(Unavailable, match="'tiny' was closed"):
        runner.rows(pixels)


def test_it_says_what_it_holds(bound: BoundRunner) -> None:
    assert bound.buckets == (1, 4, 8)
    assert bound.buffer_bytes == 13 * (32 * 32 * 3 + 24 * 4)
    graphs = "CUDA graphs" if bound.has_graphs else "no CUDA graphs"
    assert bound.description == f"batches of 1, 4, 8 in 0.0 MiB of buffers, {graphs}"


@pytest.mark.parametrize("buckets", [(), (0, 4)])
def test_batch_sizes_that_cannot_be_are_refused(
    plain: ort.InferenceSession, spec: BuildSpec, buckets: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="batch sizes must be 1 or more"):
        BoundRunner(plain, spec, buckets, HERE)


def test_a_session_that_loads_with_graphs_keeps_them(plain: ort.InferenceSession, spec: BuildSpec) -> None:
    asked = []

    def load(graphs: bool) -> ort.InferenceSession:
        asked.append(graphs)
        return plain

    runner = open_bound(load, spec, BUCKETS, HERE)
    assert (asked, runner.has_graphs) == ([True], True)
    runner.close()


def test_where_graphs_cannot_be_had_it_runs_without_and_says_why(
    plain: ort.InferenceSession, spec: BuildSpec, caplog: pytest.LogCaptureFixture
) -> None:
    def load(graphs: bool) -> ort.InferenceSession:
        if graphs:
            raise RuntimeError("the model has control flow nodes\nand a second line")
        return plain

    runner = open_bound(load, spec, BUCKETS, HERE)
    assert runner.description.endswith("no CUDA graphs (the model has control flow nodes)")
    assert "tiny runs without CUDA graphs: the model has control flow nodes" in caplog.text
    pixels = drawn(3)
    np.testing.assert_array_equal(runner.rows(pixels), run(plain, pixels))
    runner.close()


def test_a_graph_that_replays_other_rows_is_not_used(plain: ort.InferenceSession, spec: BuildSpec) -> None:
    noisy = loaded(with_last_node("noise"))
    runner = open_bound(lambda graphs: noisy if graphs else plain, spec, BUCKETS, HERE)
    assert not runner.has_graphs
    assert "replays other rows" in runner.description
    pixels = drawn(5)
    np.testing.assert_array_equal(runner.rows(pixels), run(plain, pixels))
    runner.close()


def test_a_session_that_does_not_run_leaves_no_thread(plain: ort.InferenceSession, spec: BuildSpec) -> None:
    before = threading.active_count()
    narrower = dataclasses.replace(spec, taps=spec.taps[:1])
    with pytest.raises(Exception, match="invalid dimensions for output"):
        open_bound(lambda graphs: plain, narrower, (4,), HERE)
    wait_until(lambda: threading.active_count() <= before, "a thread is left", 20)
