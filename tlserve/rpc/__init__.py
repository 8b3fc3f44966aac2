"""The gRPC face of the daemon: Open Inference Protocol v2, tlserve.v1, health and reflection.

The servicers translate messages to calls of a `Backend` (rpc.backend) and back; they know no pool, store
or trainer. `RpcServer` (rpc.server) is what the app starts; it is not imported here, so that the client
can use the messages without a server.
"""
