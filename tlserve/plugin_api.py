"""The whole contract between tlserve and a backbone plugin: the only file a plugin author reads.

A plugin is an object with two methods, `names` and `load`, offered in one of two ways:

* a package with an entry point in the group ``tlserve.backbones`` whose value is a `Plugin`
  (or a class that makes one without arguments); the entry point's name is the plugin's prefix;
* a single ``.py`` file in a configured folder, with a module-level variable ``PLUGIN``; the file's
  stem is the prefix.

Users then write ``prefix``, ``prefix/rest`` or ``prefix:rest``; tlserve hands ``rest`` (or ``""``)
to `Plugin.load`. What comes back is a `Backbone`: facts about it (`BackboneInfo`) and a way to write
it as an ONNX graph. Prove it with `tlserve.testing.check_plugin` in your own tests.

Plugins run in the trainer, never in the daemon: importing torch at the top of a plugin is fine,
importing it inside `load` is kinder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

API_VERSION = 1
ENTRY_POINT_GROUP = "tlserve.backbones"
INPUT_NAME = "input"
LAST_TAP = "features"

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Crop = Literal["center", "none"]
Layout = Literal["NCHW", "NHWC"]
ChannelOrder = Literal["RGB", "BGR"]


class BackboneError(Exception):
    """What a plugin raises when it cannot do what it was asked; the text is shown to the user."""


class UnknownArchitecture(BackboneError):
    """The plugin offers nothing by this name; say which names it does offer."""


class WeightsUnavailable(BackboneError):
    """The weights are missing, unreadable or wrong; say how to get the right ones."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How a decoded picture becomes the backbone's input.

    The picture is resized so that its short side is `resize_short_side` pixels (or, when that is
    None, straight to `height` x `width` whatever its shape), cropped in the middle to
    `height` x `width`, and normalised as ``(pixel - mean) / std`` for each channel, where pixels
    run from 0 to 255. `mean` and `std` are given in the order of `channel_order`.
    """

    height: int
    width: int
    resize_short_side: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: Crop = "center"
    interpolation: Interpolation = "bilinear"
    layout: Layout = "NCHW"
    channel_order: ChannelOrder = "RGB"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image spec: height and width must be positive, got {self.height}x{self.width}")
        if any(s == 0 for s in self.std):
            raise ValueError(f"image spec: std must not hold a zero, got {self.std}")
        short = self.resize_short_side
        if short is not None and self.crop == "center" and short < max(self.height, self.width):
            raise ValueError(
                f"image spec: resize_short_side {short} is smaller than the crop {self.height}x{self.width}"
            )
        if self.crop == "none" and short is not None:
            raise ValueError(
                "image spec: without a crop the picture is resized straight; resize_short_side must be None"
            )


@dataclass(frozen=True, slots=True)
class Tap:
    """A named point of the backbone; its activations, averaged over space, are `width` features."""

    name: str
    width: int


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """What a backbone declares about itself. Its digest is taken over this, never over the graph."""

    name: str
    """As the user writes it, for example ``torchvision/resnet50``."""
    licence: str
    """Of the weights, as an SPDX identifier where there is one."""
    n_parameters: int
    weights_origin: str
    """Where the weights come from, in words a person can check."""
    weights_sha256: str
    """Hex digest of the weights' bytes; the same in every process and on every machine."""
    build_version: str
    """Raise it whenever the same weights would give other features."""
    image: ImageSpec
    taps: tuple[Tap, ...]
    """From shallow to deep. The last one is named ``features``."""


@runtime_checkable
class Backbone(Protocol):
    """A frozen feature extractor."""

    @property
    def info(self) -> BackboneInfo: ...

    def export(self, path: Path) -> None:
        """Write the backbone to `path` as one self-contained ONNX file (no external data).

        Input ``input``: float32, normalised by the image spec, [N, 3, H, W] (or [N, H, W, 3] when the
        spec's layout says so), N free. Outputs: one per tap, by the tap's name, float32, either pooled
        [N, width] or a feature map [N, width, h, w] ([N, h, w, width] for NHWC), which tlserve averages
        over space. Inference mode: the same image always gives the same features, alone or in a batch.

        Raises BackboneError (or OSError when `path` cannot be written).
        """
        ...


@dataclass(frozen=True)
class TrainableModule:
    """A torch module whose forward takes the normalised input and returns {tap name: activations}.

    `blocks` run from shallow to deep and together cover every parameter exactly once.
    """

    module: torch.nn.Module
    blocks: tuple[torch.nn.Module, ...]


@runtime_checkable
class TrainableBackbone(Backbone, Protocol):
    """A backbone that can also be fine-tuned."""

    def torch_module(self) -> TrainableModule: ...


@runtime_checkable
class Plugin(Protocol):
    """Offers backbones by name."""

    def names(self) -> Sequence[str]:
        """What users may write after the prefix, for listings; ``("",)`` for a plugin with one backbone.

        A plugin that takes file paths lists a pattern such as ``FILE.onnx``.
        """
        ...

    def load(self, rest: str) -> Backbone:
        """The backbone named `rest`, weights included.

        Raises UnknownArchitecture or WeightsUnavailable, with a text that says what to do.
        """
        ...


@dataclass(frozen=True, slots=True)
class BackboneFacts:
    """What a plugin knows about a backbone before it loads it; None where it does not know."""

    licence: str | None = None
    """Of the weights, as in `BackboneInfo`."""
    n_parameters: int | None = None
    height: int | None = None
    """Of the input, in pixels, as in `ImageSpec`."""
    width: int | None = None
    row_width: int | None = None
    """The widths of all taps together: the numbers tlserve keeps for one image."""


@runtime_checkable
class DescribingPlugin(Plugin, Protocol):
    """A plugin that can also say what its backbones are without loading them: optional, for listings."""

    def facts(self, rest: str) -> BackboneFacts | None:
        """What is known of the backbone named `rest`, one of `names`; None for nothing.

        Called once for each name whenever backbones are listed, so it must be quick: it reads tables
        (milliseconds for all names together), builds no network, reads no weights, opens no connection.
        What it says must agree with the `info` of what `load` gives. An error counts as None.
        """
        ...
