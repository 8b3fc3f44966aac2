"""The part below the cut, which learns nothing and only runs: on a processor, in ONNX Runtime.

There it takes a quarter of the time that it takes in torch. Where it cannot be exported, or gives other
numbers, torch runs it.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from tlserve.runtime import usable_cores
from tlserve.tuning.cut import Cut
from tlserve.tuning.slots import Records

TOLERANCE = 1e-3
"""Largest difference between ONNX Runtime and torch, relative to the largest activation."""
_HALF_MAX = float(np.finfo(np.float16).max)
_OPSET = 18
_INPUT = "pictures"
_log = logging.getLogger(__name__)


class FrozenPart:
    """Gives the activations at the cut, rounded to float16. Nothing is made ready before the first call."""

    def __init__(self, cut: Cut) -> None:
        """cut: one that has a frozen part."""
        assert cut.frozen is not None
        self._module = cut.frozen
        self._session: ort.InferenceSession | None = None
        self._is_ready = False

    def records(self, pictures: Tensor) -> Records:
        """Of normalised pictures, side by side: (n, n_numbers) float16."""
        if not self._is_ready:
            self._session = None if pictures.is_cuda else self._opened(pictures[:2])
            self._is_ready = True
        if self._session is None:
            return _side_by_side([part.cpu().numpy() for part in self._in_torch(pictures)])
        return _side_by_side(self._session.run(None, {_INPUT: pictures.contiguous().numpy()}))

    def _in_torch(self, pictures: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            activations: tuple[Tensor, ...] = self._module(pictures)
        return activations

    def _opened(self, pictures: Tensor) -> ort.InferenceSession | None:
        """A session that gives what torch gives; None, with the reason in the log, if there is none."""
        try:
            session = _session(_exported(self._module, pictures))
            given = session.run(None, {_INPUT: pictures.contiguous().numpy()})
            for found, expected in zip(given, self._in_torch(pictures), strict=True):
                error = float(np.abs(found - expected.numpy()).max())
                if not error <= TOLERANCE * max(float(expected.abs().max()), 1e-6):
                    raise ValueError(f"its activations differ by {error:.3g}")
        except Exception as exc:  # exporter and runtime raise whatever they trip over
            reason = (str(exc).strip() or type(exc).__name__).splitlines()[0][:200]
            _log.info("fine-tuning: torch runs the frozen part, ONNX Runtime cannot: %s", reason)
            return None
        return session


def _exported(module: torch.nn.Module, pictures: Tensor) -> bytes:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        program = torch.onnx.export(
            module,
            (torch.zeros(2, *pictures.shape[1:]),),
            input_names=[_INPUT],
            opset_version=_OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    if program is None:
        raise ValueError("torch exported nothing")
    return bytes(program.model_proto.SerializeToString())


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    # Idle threads that spin take their cores from decoding and from the daemon.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _side_by_side(activations: list[Any]) -> Records:
    flat = [np.asarray(part).reshape(len(part), -1) for part in activations]
    together = np.concatenate(flat, axis=1) if len(flat) > 1 else flat[0]
    return np.asarray(np.clip(together, -_HALF_MAX, _HALF_MAX), dtype=np.float16)
