"""tlserve: image classification by transfer learning, from watched folders to a live gRPC service."""

import os

__version__ = "0.1.0"

# onnxruntime's wheels report to their maker from 1.29 on unless this is set before it loads; nobody's image
# service should talk to anyone behind its owner's back.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
