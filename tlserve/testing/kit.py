"""`check_backbone`, and the list of checks it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tlserve.plugin_api import Backbone
from tlserve.testing import declaration, exports, training
from tlserve.testing.trial import CheckFailed, Trial

__all__ = ["CHECKS", "Check", "CheckFailed", "check_backbone"]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and the way to test it."""

    name: str
    promise: str
    run: Callable[[Trial], str | None]
    """Gives what is wrong, in words, or None."""


CHECKS: tuple[Check, ...] = (
    Check("is_a_backbone", "a backbone has `info` and `export`", declaration.is_a_backbone),
    Check("info_is_sound", "every field of `info` is filled in as documented", declaration.info_is_sound),
    Check(
        "last_tap_is_features", "taps differ in name and the last is `features`", declaration.taps_are_sound
    ),
    Check(
        "image_spec_is_usable",
        "a picture can be prepared as the image spec says",
        declaration.image_is_usable,
    ),
    Check("info_is_stable", "`info` says the same each time it is read", declaration.info_is_stable),
    Check("info_is_picklable", "`info` passes between processes unchanged", declaration.info_is_picklable),
    Check(
        "unwritable_path",
        "export to an unwritable path raises BackboneError or OSError",
        exports.unwritable_path,
    ),
    Check("export_works", "export writes a valid ONNX model to a fresh path", exports.export_works),
    Check("single_file", "export writes one file without external data", exports.single_file),
    Check(
        "input_signature", "the only input is `input`, float32, in the spec's layout", exports.input_signature
    ),
    Check(
        "outputs_are_the_taps",
        "the outputs are the taps, float32, with their widths",
        exports.outputs_are_the_taps,
    ),
    Check("batch_is_free", "the batch dimension is free", exports.batch_is_free),
    Check("all_finite", "no feature is NaN or infinite", exports.all_finite),
    Check("deterministic", "the same image always gives the same features", exports.deterministic),
    Check(
        "alone_or_in_a_batch",
        "an image has the same features alone and in a batch",
        exports.alone_or_in_a_batch,
    ),
    Check("inference_mode", "the graph holds no operator in training mode", exports.inference_mode),
    Check(
        "features_tell_images_apart", "different images have different features", exports.tells_images_apart
    ),
    Check("export_repeats", "a second export gives the same features", exports.export_repeats),
    Check(
        "torch_module_agrees", "the torch module gives the features of the ONNX graph", training.module_agrees
    ),
    Check(
        "blocks_cover_parameters",
        "blocks hold every parameter exactly once",
        training.blocks_cover_parameters,
    ),
    Check(
        "torch_module_is_a_copy",
        "training the torch module leaves the backbone as it was",
        training.module_is_a_copy,
    ),
)


def check_backbone(backbone: Backbone, *, checks: Collection[str] | None = None) -> None:
    """Run every check, or those named in `checks`, in the order of `CHECKS`.

    Takes seconds: the backbone is exported three times and run on a few small batches. The checks of the
    torch module are passed over for a backbone that cannot be trained.

    Raises CheckFailed (an AssertionError) at the first broken promise, naming it; ValueError for a name in
    `checks` that is no check.
    """
    unknown = sorted(set(checks or ()) - {check.name for check in CHECKS})
    if unknown:
        raise ValueError(
            f"no such checks: {', '.join(unknown)}; there are {', '.join(c.name for c in CHECKS)}"
        )
    with tempfile.TemporaryDirectory(prefix="check-backbone-") as folder:
        trial = Trial(backbone, Path(folder))
        for check in CHECKS:
            if checks is None or check.name in checks:
                _run(check, trial)


def _run(check: Check, trial: Trial) -> None:
    try:
        wrong = check.run(trial)
    except Exception as exc:
        raise CheckFailed(check.name, check.promise, f"instead {type(exc).__name__}: {exc}") from exc
    if wrong is not None:
        raise CheckFailed(check.name, check.promise, wrong)
