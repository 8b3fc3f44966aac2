"""Builds: the wrapped graph gives the backbone's own numbers, and nothing else is ever published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tests.plugin_host.tiny import IMAGE, INFO, TinyBackbone, tiny_model, with_info, with_model
from tlserve.core.errors import BackboneProblem, StoreUnavailable
from tlserve.plugin_api import BackboneError, Tap
from tlserve.plugin_host import make_build
from tlserve.runtime import BackboneSession, Device, choose_device, reference_pixels

CPU: Device = choose_device("cpu")


def rows_of(folder: Path) -> np.ndarray:
    session = BackboneSession.open(folder, CPU)
    rows = session.rows(reference_pixels(session.spec.image))
    session.close()
    return rows


def expected_rows(*, layout: str = "NCHW", bgr: bool = False) -> np.ndarray:
    """What the tiny network gives, computed in numpy alone."""
    weights = {t.name: numpy_helper.to_array(t) for t in tiny_model(layout=layout).graph.initializer}
    pixels = reference_pixels(IMAGE)[..., ::-1] if bgr else reference_pixels(IMAGE)
    x = (pixels.astype(np.float64) - IMAGE.mean) / IMAGE.std
    stage = np.maximum(x @ weights["kernel"][:, :, 0, 0].T, 0).mean((1, 2))
    return np.concatenate([stage, stage @ weights["matrix"]], axis=1)


@pytest.mark.parametrize("opset", [7, 12, 13, 17, 18, 21])
def test_the_wrapped_graph_gives_the_backbones_own_numbers(opset: int, tmp_path: Path) -> None:
    folder = make_build(with_model(opset=opset), "tiny", tmp_path / "backbones", CPU)
    np.testing.assert_allclose(rows_of(folder), expected_rows(), rtol=1e-4, atol=1e-5)


def test_channels_last_and_bgr_are_handled_inside_the_graph(tmp_path: Path) -> None:
    last = replace(IMAGE, layout="NHWC")
    backbone = TinyBackbone(replace(INFO, image=last), lambda: tiny_model(layout="NHWC"))
    np.testing.assert_allclose(
        rows_of(make_build(backbone, "tiny", tmp_path, CPU)),
        expected_rows(layout="NHWC"),
        rtol=1e-4,
        atol=1e-5,
    )
    bgr = with_info(image=replace(IMAGE, channel_order="BGR"))
    np.testing.assert_allclose(
        rows_of(make_build(bgr, "tiny", tmp_path, CPU)), expected_rows(bgr=True), rtol=1e-4, atol=1e-5
    )


def test_tensor_names_that_equal_the_builds_own_do_not_collide(tmp_path: Path) -> None:
    rename = [helper.make_node("Identity", ["rows"], ["x"])]
    backbone = with_model(before=[helper.make_node("Identity", ["input"], ["rows"]), *rename])
    np.testing.assert_allclose(
        rows_of(make_build(backbone, "tiny", tmp_path, CPU)), expected_rows(), rtol=1e-4, atol=1e-5
    )


def test_a_build_is_reused_until_something_declared_changes(tmp_path: Path) -> None:
    first = make_build(TinyBackbone(), "tiny", tmp_path, CPU)

    def never() -> None:
        raise AssertionError("exported again")

    assert make_build(TinyBackbone(make_model=never), "tiny", tmp_path, CPU) == first
    assert make_build(with_info(build_version="2"), "tiny", tmp_path, CPU) != first
    assert make_build(TinyBackbone(), "other", tmp_path, CPU) != first


def test_a_damaged_build_is_made_anew(tmp_path: Path) -> None:
    folder = make_build(TinyBackbone(), "tiny", tmp_path, CPU)
    (folder / "spec.json").write_text("{")
    assert make_build(TinyBackbone(), "tiny", tmp_path, CPU) == folder
    assert rows_of(folder).shape == (8, 10)


def test_a_build_holds_three_files_and_no_trace_of_the_machine(tmp_path: Path) -> None:
    def traced() -> object:
        model = tiny_model()
        model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone/secret.py")
        model.graph.node[0].doc_string = "/home/someone/secret.py"
        return model

    folder = make_build(TinyBackbone(make_model=traced), "tiny", tmp_path, CPU)
    assert sorted(path.name for path in folder.iterdir()) == ["backbone.onnx", "reference.npy", "spec.json"]
    assert b"secret" not in (folder / "backbone.onnx").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def raising(error: BaseException) -> TinyBackbone:
    def make() -> object:
        raise error

    return TinyBackbone(make_model=make)


def junk() -> object:
    class Junk:
        def SerializeToString(self) -> bytes:
            return b"this is no graph"

    return Junk()


BROKEN = {
    "refuses": (raising(BackboneError("weights went away")), "weights went away"),
    "raises": (raising(KeyError("k")), "export failed: KeyError"),
    "exits": (raising(SystemExit(1)), "export failed: SystemExit"),
    "panics": (raising(type("PanicException", (BaseException,), {})("boom")), "PanicException: boom"),
    "junk": (TinyBackbone(make_model=junk), "export failed"),
    "bad info": (with_info(n_parameters=0), "n_parameters"),
    "width": (with_info(taps=(Tap("stage1", 4), Tap("features", 7))), "has 6 features, 7 are declared"),
    "missing tap": (with_info(taps=(Tap("features", 6),)), "outputs must be the taps"),
    "input name": (with_model(input_name="image"), "only input must be 'input'"),
    "fixed batch": (with_model(batch=1), "does not run"),
    "not finite": (
        with_model(after=[helper.make_node("Log", ["y"], ["features"])]),
        "'features' gives NaN or infinity",
    ),
    "batch statistics": (
        with_model(
            before=[
                helper.make_node("ReduceMean", ["input"], ["batch_mean"], axes=[0], keepdims=1),
                helper.make_node("Sub", ["input", "batch_mean"], ["x"]),
            ]
        ),
        "alone than in a batch",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_told_with_the_plugins_name_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    backbone, reason = BROKEN[case]
    with pytest.raises(BackboneProblem, match="plugin 'tiny'") as caught:
        make_build(backbone, "tiny", tmp_path, CPU)
    assert reason in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_external_data_is_refused(tmp_path: Path) -> None:
    class External(TinyBackbone):
        def export(self, path: Path) -> None:
            onnx.save(tiny_model(), path, save_as_external_data=True, location="more", size_threshold=0)

    with pytest.raises(BackboneProblem, match="one file without external data"):
        make_build(External(), "tiny", tmp_path, CPU)


def test_a_folder_that_cannot_be_written_is_the_operators_business(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="cannot write the build"):
        make_build(TinyBackbone(), "tiny", tmp_path / "file", CPU)


def test_the_graph_runs_outside_tlserve_with_any_batch(tmp_path: Path) -> None:
    folder = make_build(TinyBackbone(), "tiny", tmp_path, CPU)
    session = ort.InferenceSession(str(folder / "backbone.onnx"), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        (rows,) = session.run(None, {"pixels": np.zeros((n, 8, 8, 3), np.uint8)})
        assert rows.shape == (n, 10)
