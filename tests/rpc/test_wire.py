"""Our messages are those of the public protocol, and live beside tritonclient's in one process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from tests.rpc.conftest import Running
from tlserve.rpc._gen import inference_pb2, model_config_pb2

triton_service = pytest.importorskip("tritonclient.grpc.service_pb2")
triton_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")

PAIRS = [
    (inference_pb2.DESCRIPTOR, triton_service.DESCRIPTOR),
    (model_config_pb2.DESCRIPTOR, triton_config.DESCRIPTOR),
]
REPOSITORY = Path(__file__).resolve().parents[2]

BOTH_IN_ONE_PROCESS = """
import sys
{imports}
client = tritonclient.grpc.InferenceServerClient(sys.argv[1])
assert client.is_server_live()
assert client.get_model_metadata("colours").name == "colours"
with tlserve.client.Client(sys.argv[1]) as ours:
    assert ours.ready("colours")
"""


def messages(file: FileDescriptor) -> list[Descriptor]:
    found = list(file.message_types_by_name.values())
    for message in found:
        found.extend(message.nested_types)
    return found


def kind(field: FieldDescriptor) -> tuple[object, ...]:
    """All that decides how a field looks on the wire and is read."""
    inner = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return (field.name, field.number, field.type, field.is_repeated, inner and inner.full_name, oneof)


def enums(file: FileDescriptor) -> list[EnumDescriptor]:
    return [*file.enum_types_by_name.values(), *(enum for m in messages(file) for enum in m.enum_types)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["service", "config"])
def test_every_field_has_the_number_and_type_of_the_public_protocol(
    ours: FileDescriptor, theirs: FileDescriptor
) -> None:
    public = {message.full_name: message for message in messages(theirs)}
    for message in messages(ours):
        known = {kind(field) for field in public[message.full_name].fields}
        assert {kind(field) for field in message.fields} <= known, message.full_name


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["service", "config"])
def test_every_enum_has_the_values_of_the_public_protocol(
    ours: FileDescriptor, theirs: FileDescriptor
) -> None:
    public = {enum.full_name: enum for enum in enums(theirs)}
    for enum in enums(ours):
        assert enum.values_by_number.keys() == public[enum.full_name].values_by_number.keys()
        assert [v.name for v in enum.values] == [v.name for v in public[enum.full_name].values]


def test_the_service_has_the_methods_of_the_public_protocol() -> None:
    def methods(file: FileDescriptor) -> set[tuple[object, ...]]:
        return {
            (m.name, m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming)
            for m in file.services_by_name["GRPCInferenceService"].methods
        }

    assert methods(inference_pb2.DESCRIPTOR) == methods(triton_service.DESCRIPTOR)


def test_the_service_messages_are_complete() -> None:
    ours = {message.full_name: len(message.fields) for message in messages(inference_pb2.DESCRIPTOR)}
    theirs = {message.full_name: len(message.fields) for message in messages(triton_service.DESCRIPTOR)}
    assert ours == theirs


@pytest.mark.parametrize(
    "imports",
    ["import tritonclient.grpc\nimport tlserve.client", "import tlserve.client\nimport tritonclient.grpc"],
    ids=["theirs first", "ours first"],
)
async def test_both_clients_work_in_one_process_in_either_order(running: Running, imports: str) -> None:

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BOTH_IN_ONE_PROCESS.format(imports=imports),
        running.address,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


def test_the_committed_code_is_what_the_generator_writes(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    generated = tmp_path / "generated"
    subprocess.run([sys.executable, "proto/generate.py", str(generated)], cwd=REPOSITORY, check=True)
    committed = REPOSITORY / "tlserve" / "rpc" / "_gen"
    for file in generated.iterdir():
        assert file.read_text() == (committed / file.name).read_text(), (
            f"run `make proto`: {file.name} differs"
        )
