"""`check_backbone`, and the list of checks it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tlserve.plugin_api import Backbone
from tlserve.testing import declaration, exports, pictures, training
from tlserve.testing.trial import RAISED, CheckFailed, Trial


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of a backbone and the way to test it."""

    name: str
    promise: str
    run: Callable[[Trial], str | None]
    """Gives what is wrong, in words, or None."""


_ITSELF = (
    Check("is_a_backbone", "a backbone has `info` and `export`", declaration.is_a_backbone),
    Check("info_is_sound", "every field of `info` is filled in as documented", declaration.info_is_sound),
    Check(
        "last_tap_is_features", "taps differ in name and the last is `features`", declaration.taps_are_sound
    ),
    Check(
        "licence_and_origin",
        "licence and origin tell what a person can check",
        declaration.licence_and_origin,
    ),
    Check("digest_is_real", "`weights_sha256` is taken over the weights' bytes", declaration.digest_is_real),
    Check("info_is_stable", "`info` says the same each time it is read", declaration.info_is_stable),
    Check("info_is_picklable", "`info` passes between processes unchanged", declaration.info_is_picklable),
    Check("info_is_plain", "`info` holds plain Python texts, numbers and tuples", declaration.info_is_plain),
    Check(
        "image_spec_is_usable", "a picture can be prepared as the image spec says", pictures.image_is_usable
    ),
    Check("pixel_units", "mean and std are for pixels from 0 to 255", pictures.pixel_units),
    Check("channel_order", "mean and std are in the declared channel order", pictures.mean_in_channel_order),
)
_GRAPH = (
    Check("export_works", "export writes a valid ONNX model to a fresh path", exports.export_works),
    Check("single_file", "export writes one file without external data", exports.single_file),
    Check("opset", f"the graph is of opset {exports.MIN_OPSET} or newer", exports.opset_is_supported),
    Check(
        "input_signature", "the only input is `input`, float32, in the spec's layout", exports.input_signature
    ),
    Check("batch_is_free", "the batch dimension is free", exports.batch_is_free),
    Check("image_size", "the graph takes pictures of the declared size", pictures.image_size),
    Check(
        "outputs_are_the_taps",
        "the outputs are the taps, float32, with their widths",
        exports.outputs_are_the_taps,
    ),
    Check("taps_run_deeper", "taps run from shallow to deep", exports.taps_run_deeper),
    Check("parameters_are_counted", "`n_parameters` is true", declaration.parameters_are_counted),
    Check("inference_mode", "the graph holds no operator in training mode", exports.inference_mode),
    Check("all_finite", "no feature is NaN or infinite", exports.all_finite),
    Check("deterministic", "the same image always gives the same features", exports.deterministic),
    Check(
        "alone_or_in_a_batch",
        "an image has the same features alone and in a batch",
        exports.alone_or_in_a_batch,
    ),
    Check(
        "features_tell_images_apart", "different images have different features", exports.tells_images_apart
    ),
    Check(
        "every_channel_counts", "red, green and blue all reach the features", pictures.every_channel_counts
    ),
    Check("full_pixel_range", "the graph sees the whole range of pixels", pictures.full_pixel_range),
    Check("normalised_once", "the image spec is all the normalisation there is", pictures.normalised_once),
    Check("range_fits", "values come in the range the network was trained on", pictures.range_fits),
    Check(
        "unwritable_path",
        "export into a read-only folder raises BackboneError or OSError",
        exports.unwritable_path,
    ),
    Check(
        "works_after_a_failed_export",
        "an export that failed leaves the backbone usable",
        exports.works_after_a_failed_export,
    ),
    Check("export_repeats", "a second export gives the same features", exports.export_repeats),
)
_MODULE = (
    Check(
        "torch_channel_order",
        "torch module and graph take the channels in one order",
        training.module_takes_the_same_order,
    ),
    Check(
        "torch_module_agrees",
        "the torch module gives the features of the ONNX graph within 1e-4 of the tap's largest",
        training.module_agrees,
    ),
    Check(
        "torch_module_infers", "in eval mode the torch module is in inference mode", training.module_infers
    ),
    Check(
        "blocks_cover_parameters",
        "blocks hold every parameter exactly once",
        training.blocks_cover_parameters,
    ),
    Check("blocks_run_deeper", "blocks run from shallow to deep", training.blocks_run_deeper),
    Check(
        "every_block_learns", "every block of the torch module can be trained", training.every_block_learns
    ),
    Check(
        "torch_module_is_a_copy",
        "training the torch module leaves the backbone as it was",
        training.module_is_a_copy,
    ),
    Check(
        "torch_module_is_fresh", "each torch module has the backbone's own weights", training.module_is_fresh
    ),
)
CHECKS: tuple[Check, ...] = (*_ITSELF, *_GRAPH, *_MODULE)


def check_backbone(backbone: Backbone, *, checks: Collection[str] | None = None) -> None:
    """Run every check, or those named in `checks`, in the order of `CHECKS`.

    Takes seconds, or minutes for large networks: the backbone is exported up to five times and run on a few
    small batches. The checks of the torch module are passed over for a backbone that cannot be trained. What
    takes a plugin to see, such as whether another process finds the same weights, `check_plugin` checks.

    Raises CheckFailed (an AssertionError) at the first broken promise, naming it; ValueError for a name in
    `checks` that is no check.
    """
    wanted = chosen(checks, (check.name for check in CHECKS))
    with tempfile.TemporaryDirectory(prefix="check-backbone-") as folder:
        run_checks(Trial(backbone, Path(folder)), wanted)


def chosen(checks: Collection[str] | None, known: Iterable[str]) -> frozenset[str]:
    """The checks to run. Raises ValueError for one that does not exist."""
    there = tuple(known)
    unknown = sorted(set(checks or ()) - set(there))
    if unknown:
        raise ValueError(f"no such checks: {', '.join(unknown)}; there are {', '.join(there)}")
    return frozenset(there if checks is None else checks)


def run_checks(trial: Trial, wanted: Collection[str], *, of: str = "") -> None:
    """The checks of `CHECKS` that are wanted. of: names the backbone in what is said."""
    for check in CHECKS:
        if check.name in wanted:
            fail_if_wrong(check.name, check.promise, partial(check.run, trial), of=of)


def fail_if_wrong(check: str, promise: str, run: Callable[[], str | None], *, of: str = "") -> None:
    """Raises CheckFailed for what `run` gives or raises."""
    where = f"{of}: " if of else ""
    try:
        wrong = run()
    except RAISED as exc:
        raise CheckFailed(check, promise, f"{where}instead {type(exc).__name__}: {exc}") from exc
    if wrong is not None:
        raise CheckFailed(check, promise, where + wrong)
