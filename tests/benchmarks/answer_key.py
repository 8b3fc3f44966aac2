"""What every version must answer for every picture, worked out in advance; and the check of an answer.

The daemon is not asked: pictures go through tlserve's decoder, a session of the build, and the version's
own head, each on its own. So an answer that names one version and was made by another cannot pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import BadInput
from tlserve.core.head import apply
from tlserve.core.types import Pixels, Probabilities
from tlserve.images import ImageDecoder
from tlserve.release import VersionStore
from tlserve.rpc._gen import inference_pb2 as oip
from tlserve.rpc.tensors import split_bytes
from tlserve.runtime import BackboneSession, choose_device

TOLERANCE = 1e-4
"""Of a probability: batches of other sizes round otherwise, by far less than two versions differ."""
NO_PICTURE = b"this is text, not a picture"
OUTPUTS = ("label", "classes", "probabilities")


@dataclass(frozen=True)
class AnswerKey:
    """files: encoded pictures; pixels: (n, H, W, 3) the same decoded; by (model, version): labels, and
    (n, n_classes) probabilities."""

    files: tuple[bytes, ...]
    pixels: Pixels
    labels: Mapping[tuple[str, int], tuple[str, ...]]
    probabilities: Mapping[tuple[str, int], Probabilities]

    @classmethod
    def of(
        cls, photos: Sequence[Path], store: VersionStore, backbones: Path, models: Sequence[str]
    ) -> AnswerKey:
        """For all published versions of `models`, whose builds lie under `backbones`."""
        files = tuple(photo.read_bytes() for photo in photos)
        sessions: dict[str, BackboneSession] = {}
        labels, probabilities = {}, {}
        pixels: Pixels | None = None
        for model in models:
            for number in store.versions(model):
                version = store.load(model, number)
                digest = version.manifest.build
                if digest not in sessions:
                    cpu = choose_device("cpu")
                    sessions[digest] = BackboneSession.open(backbones / digest, cpu, threads=1)
                session = sessions[digest]
                if pixels is None:
                    decoder = ImageDecoder(session.spec.image)
                    pixels = np.stack([decoder.decode(file) for file in files])
                rows = session.rows(pixels)[:, session.spec.columns(version.head.taps)]
                labels[model, number] = version.head.labels
                probabilities[model, number] = apply(version.head, rows)
        assert pixels is not None
        return cls(files, pixels, labels, probabilities)

    def save(self, folder: Path) -> None:
        """For a client in another process; see `read`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "pixels.npy", self.pixels)
        np.savez(
            folder / "probabilities.npz",
            **{f"{model}:{number}": found for (model, number), found in self.probabilities.items()},
        )
        lines = [[model, number, list(labels)] for (model, number), labels in self.labels.items()]
        (folder / "labels.json").write_text(json.dumps(lines))
        for index, file in enumerate(self.files):
            (folder / f"{index:05}.image").write_bytes(file)

    @classmethod
    def read(cls, folder: Path) -> AnswerKey:
        files = tuple(path.read_bytes() for path in sorted(folder.glob("*.image")))
        lines = json.loads((folder / "labels.json").read_text())
        labels = {(model, number): tuple(names) for model, number, names in lines}
        with np.load(folder / "probabilities.npz") as kept:
            probabilities = {(model, number): kept[f"{model}:{number}"] for model, number in labels}
        return cls(files, np.load(folder / "pixels.npy"), labels, probabilities)

    # -- requests, and the check of what comes back

    def request(self, model: str, kind: str, picture: int) -> bytes:
        """A serialised request to the live version: one picture as `pixels` or `image`, or a `bad` one."""
        request = oip.ModelInferRequest(model_name=model)
        if kind == "pixels":
            request.inputs.add(name="pixels", datatype="UINT8", shape=[1, *self.pixels.shape[1:]])
            request.raw_input_contents.append(self.pixels[picture].tobytes())
        else:
            tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(NO_PICTURE if kind == "bad" else self.files[picture])
        for name in OUTPUTS:
            request.outputs.add(name=name)
        return request.SerializeToString()

    def fault(self, data: bytes, model: str, picture: int) -> tuple[int, str]:
        """The version that an answer names, and what is wrong with it (empty: nothing)."""
        answer = oip.ModelInferResponse.FromString(data)
        version = int(answer.model_version or 0)
        if answer.model_name != model or (model, version) not in self.labels:
            return version, f"it names {answer.model_name!r} version {answer.model_version!r}"
        try:
            fault = self._fault_of(answer, (model, version), picture)
        except (BadInput, KeyError, ValueError) as exc:
            fault = f"it cannot be read: {exc!r}"
        return version, fault

    def _fault_of(self, answer: oip.ModelInferResponse, key: tuple[str, int], picture: int) -> str:
        labels = self.labels[key]
        given = dict(zip((o.name for o in answer.outputs), answer.raw_output_contents, strict=True))
        classes = tuple(name.decode() for name in split_bytes(given["classes"], len(labels)))
        if classes != labels:
            return f"version {key[1]} has the classes {labels}, the answer has {classes}"
        found: npt.NDArray[np.float32] = np.frombuffer(given["probabilities"], "<f4")
        if found.shape != (len(labels),):
            return f"{len(labels)} probabilities expected, {found.size} given"
        expected = self.probabilities[key][picture]
        if not np.allclose(found, expected, atol=TOLERANCE):
            return f"probabilities of version {key[1]} are off by {np.abs(found - expected).max():.2g}"
        (label,) = split_bytes(given["label"], 1)
        if label.decode() != labels[int(found.argmax())]:
            return f"the label {label!r} is not the likeliest class"
        return ""
