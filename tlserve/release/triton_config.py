"""config.pbtxt and labels.txt of a model in the Triton repository. Free of I/O.

Written by hand, since the text format of so small a message is simpler than a protobuf dependency; a test
reads it back with Triton's own message.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlserve.core.head import Head
from tlserve.plugin_api import ImageSpec

LABELS_FILE = "labels.txt"
MAX_BATCH = 32


def triton_config(model: str, image: ImageSpec, head: Head, versions: Sequence[int]) -> str:
    """The configuration of `model`, which must have a valid model name; `versions` are the ones to load."""
    return f"""name: "{model}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH}
input [
  {{ name: "pixels" data_type: TYPE_UINT8 dims: [ {image.height}, {image.width}, 3 ] }}
]
output [
  {{
    name: "probabilities" data_type: TYPE_FP32 dims: [ {len(head.labels)} ]
    label_filename: "{LABELS_FILE}"
  }},
  {{ name: "features" data_type: TYPE_FP32 dims: [ {head.n_features} ] }},
  {{ name: "novelty" data_type: TYPE_FP32 dims: [ 1 ] reshape: {{ shape: [ ] }} }}
]
version_policy {{ specific {{ versions: [ {", ".join(map(str, versions))} ] }} }}
dynamic_batching {{ }}
"""


def labels_text(labels: Sequence[str]) -> str:
    """One label a line; a line break within a name, which folders may have, becomes a space."""
    return "".join(" ".join(label.splitlines()) + "\n" for label in labels)
