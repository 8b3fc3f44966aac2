"""Export every architecture with random weights and check it: the table "Matrix" of docs/plugins.md.

    python plugins/torchvision/matrix.py [ARCH ...]

One process for each architecture, the largest last unless others are named. Takes about an hour.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tlserve_torchvision import PLUGIN, TorchvisionBackbone, catalogue

from tlserve.plugin_api import BackboneError, BackboneInfo, TrainableModule
from tlserve.testing import CHECKS, CheckFailed, check_backbone

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MORE_THAN_ONE_EXPORT = frozenset(
    {"unwritable_path", "works_after_a_failed_export", "export_repeats", "torch_module_is_a_copy"}
)


class ExportedOnce:
    """A backbone whose second export is a copy of the first: each takes up to a minute."""

    def __init__(self, backbone: TorchvisionBackbone, folder: Path) -> None:
        self._backbone = backbone
        self.path = folder / "once.onnx"
        started = time.monotonic()
        backbone.export(self.path)
        self.export_seconds = time.monotonic() - started

    @property
    def info(self) -> BackboneInfo:
        return self._backbone.info

    def export(self, path: Path) -> None:
        shutil.copyfile(self.path, path)

    def torch_module(self) -> TrainableModule:
        return self._backbone.torch_module()


def row_of(architecture: str) -> str:
    """One line of the table."""
    facts = catalogue.facts(architecture)
    assert facts is not None
    known = (
        (
            f"| `{architecture}` | {(facts.n_parameters or 0) / 1e6:.1f} | {facts.height} | "
            f"{catalogue.entries()[architecture, ''].widths} | {facts.row_width} "
        )
        .replace("(", "")
        .replace(")", "")
    )
    try:
        backbone = PLUGIN.load(f"{architecture}@random")
        if backbone.info.n_parameters != facts.n_parameters or facts.row_width != sum(
            tap.width for tap in backbone.info.taps
        ):
            return f"{known}| | | | **the table of the plugin is wrong: {backbone.info}** |"
        with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
            once = ExportedOnce(backbone, Path(folder))
            megabytes = once.path.stat().st_size / 1e6
            measured = f"| {megabytes:.0f} | {once.export_seconds:.0f} | {difference(once):.0e} "
            return f"{known}{measured}| {verdict(once)} |"
    except BackboneError as exc:
        return f"{known}| | | | {exc} |"


def verdict(backbone: ExportedOnce) -> str:
    names = [check.name for check in CHECKS if check.name not in MORE_THAN_ONE_EXPORT]
    try:
        check_backbone(backbone, checks=names)
    except CheckFailed as exc:
        return f"**{exc}**"
    return f"all {len(names)}"


def difference(backbone: ExportedOnce) -> float:
    """Largest one between torch and ONNX Runtime over all taps, relative to the tap's largest value."""
    import numpy as np
    import onnxruntime as ort
    import torch

    side = backbone.info.image.height
    images: npt.NDArray[np.float32] = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype("f4")
    session = ort.InferenceSession(str(backbone.path), providers=["CPUExecutionProvider"])
    taps = [tap.name for tap in backbone.info.taps]
    found = dict(zip(taps, session.run(taps, {"input": images}), strict=True))
    with torch.no_grad():
        wanted = backbone.torch_module().module.eval()(torch.from_numpy(images))
    return max(
        float(np.abs(found[tap] - wanted[tap].numpy()).max() / np.abs(found[tap]).max()) for tap in taps
    )


def main() -> None:
    logging.getLogger("tlserve_torchvision").setLevel(logging.ERROR)  # random weights are what is wanted here
    match sys.argv[1:]:
        case ["--one", architecture]:
            sys.stdout.write(f"{row_of(architecture)}\n")
        case chosen:
            sizes = {entry.architecture: entry.n_parameters for entry in catalogue.entries().values()}
            for architecture in chosen or sorted(sizes, key=lambda name: sizes[name]):
                command = [sys.executable, __file__, "--one", architecture]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                row = result.stdout.strip() or f"| `{architecture}` | **{result.stderr[-300:]}** |"
                sys.stdout.write(f"{row}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
