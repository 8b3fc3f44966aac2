"""An answer as output tensors of the Open Inference Protocol: which ones, and their bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tlserve.core.errors import BadInput
from tlserve.rpc._gen import inference_pb2 as oip
from tlserve.rpc.backend import Answer
from tlserve.rpc.tensors import join_bytes

Request = oip.ModelInferRequest
Tensor = tuple[str, tuple[int, ...], bytes]
"""Datatype, shape, raw bytes."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One requested output. top_k: as "score:index:label" strings of the best so many classes; 0 as it is."""

    name: str
    top_k: int = 0


def wanted_outputs(request: Request) -> tuple[Wanted, ...]:
    """What the request asks for, the defaults when it names nothing; raises BadInput."""
    if not request.outputs:
        return _DEFAULT
    wanted = tuple(_wanted(output) for output in request.outputs)
    if len({output.name for output in wanted}) != len(wanted):
        raise BadInput("an output is requested twice; name each once")
    return wanted


def write_answer(request: Request, answer: Answer, wanted: tuple[Wanted, ...]) -> oip.ModelInferResponse:
    """The response: outputs in the order requested, all of them raw."""
    response = oip.ModelInferResponse(
        model_name=answer.model, model_version=str(answer.version), id=request.id
    )
    for output in wanted:
        datatype, shape, raw = (
            _ranked(answer, output.top_k) if output.top_k else _WRITERS[output.name](answer)
        )
        response.outputs.add(name=output.name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return response


def _wanted(output: Request.InferRequestedOutputTensor) -> Wanted:
    if output.name not in _WRITERS:
        raise BadInput(f"unknown output {output.name[:80]!r}; there are: {', '.join(_WRITERS)}")
    if any(key.startswith("shared_memory") for key in output.parameters):
        raise BadInput(f"output {output.name!r}: shared memory is not offered; it comes in the response")
    if "classification" not in output.parameters:
        return Wanted(output.name)
    top_k = whole_number(output.parameters["classification"], "classification")
    if output.name != "probabilities":
        raise BadInput(f"'classification' goes with the output 'probabilities', not {output.name!r}")
    if top_k < 1:
        raise BadInput(f"'classification' must be at least 1, not {top_k}")
    return Wanted(output.name, top_k)


def whole_number(parameter: oip.InferParameter, name: str) -> int:
    """The value of an integer parameter; raises BadInput for another kind."""
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return parameter.int64_param
    if kind == "uint64_param":
        return parameter.uint64_param
    raise BadInput(f"parameter {name!r} must be an integer")


def _label(answer: Answer) -> Tensor:
    names = [answer.labels[index].encode() for index in answer.probabilities.argmax(axis=1)]
    return "BYTES", (len(names),), join_bytes(names)


def _probabilities(answer: Answer) -> Tensor:
    return "FP32", answer.probabilities.shape, answer.probabilities.astype("<f4", copy=False).tobytes()


def _classes(answer: Answer) -> Tensor:
    return "BYTES", (len(answer.labels),), join_bytes([label.encode() for label in answer.labels])


def _features(answer: Answer) -> Tensor:
    return "FP32", answer.features.shape, answer.features.astype("<f4", copy=False).tobytes()


def _novelty(answer: Answer) -> Tensor:
    return "FP32", answer.novelty.shape, answer.novelty.astype("<f4", copy=False).tobytes()


def _unknown(answer: Answer) -> Tensor:
    return "BOOL", answer.unknown.shape, answer.unknown.astype(np.bool_, copy=False).tobytes()


def _ranked(answer: Answer, top_k: int) -> Tensor:
    k = min(top_k, len(answer.labels))
    best = np.argsort(-answer.probabilities, axis=1, kind="stable")[:, :k]
    lines = [
        f"{answer.probabilities[row, index]:f}:{index}:{answer.labels[index]}".encode()
        for row in range(len(best))
        for index in best[row]
    ]
    return "BYTES", (len(best), k), join_bytes(lines)


_WRITERS: dict[str, Callable[[Answer], Tensor]] = {
    "label": _label,
    "probabilities": _probabilities,
    "classes": _classes,
    "features": _features,
    "novelty": _novelty,
    "unknown": _unknown,
}
_DEFAULT = (Wanted("label"), Wanted("probabilities"))
