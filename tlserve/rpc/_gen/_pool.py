"""The private descriptor pool of our messages.

tritonclient registers the package `inference` in protobuf's default pool, where a name can be defined
only once. Ours live here, so both work in one process, whichever is imported first.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()


def add(serialized: bytes) -> FileDescriptor:
    """Register a file (a serialised FileDescriptorProto); what it imports must be registered already."""
    return POOL.AddSerializedFile(serialized)


def publish(file: FileDescriptor, namespace: dict[str, Any]) -> None:
    """Put the file's top-level messages, enums and enum values into a module's namespace."""
    for name, message in file.message_types_by_name.items():
        namespace[name] = GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        namespace[name] = EnumTypeWrapper(enum)
        namespace.update({value.name: value.number for value in enum.values})
