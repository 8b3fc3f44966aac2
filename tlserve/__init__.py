"""tlserve: image classification by transfer learning, from watched folders to a live gRPC service."""

__version__ = "0.1.0"
