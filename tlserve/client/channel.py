"""How both clients connect: options of the gRPC channel."""

from __future__ import annotations

from google.protobuf.message import Message

READY_POLL_SECONDS = 0.1
_LOOPBACK = ("127.", "localhost", "[::1]", "unix:")


def channel_options(address: str) -> list[tuple[str, int]]:
    """No limit on what the server may send, and quick reconnects, as after a restart of the daemon.

    The least backoff stays gRPC's own 20 s: it is also how long a connection may take to be made, and a far
    or busy server needs more than an instant.
    """
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if address.startswith(_LOOPBACK):
        # A proxy from the environment cannot reach this machine's own loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def serialize(message: Message) -> bytes:
    return message.SerializeToString()
