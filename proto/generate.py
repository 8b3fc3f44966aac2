"""Write tlserve/rpc/_gen from the .proto files here: `make proto`.

protoc gives the descriptors and the .pyi; the modules themselves are a few lines of ours that put the
descriptors into a private pool. Two reasons: tritonclient registers the same names in the default pool, and
a second definition there is an error; and protoc's own modules refuse to run on a protobuf that is older
than the compiler, while descriptors and the public pool API work on every release.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

HERE = Path(__file__).parent
OUT = HERE.parent / "tlserve" / "rpc" / "_gen"
FILES = ("model_config.proto", "inference.proto", "tlserve_v1.proto")
BYTES_PER_LINE = 60

MODULE = """\
# Written by proto/generate.py from {proto}; do not edit.
{imports}from tlserve.rpc._gen._pool import add, publish

DESCRIPTOR = add(
{blob}
)
publish(DESCRIPTOR, globals())
"""


def main(out: Path = OUT) -> None:
    """Compile every file of FILES into `out`; leaves nothing else behind."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = compile_all(Path(scratch))
        for file in descriptors.file:
            stem = file.name.removesuffix(".proto")
            (out / f"{stem}_pb2.py").write_text(module_text(file))
            (out / f"{stem}_pb2.pyi").write_text(stub_text((Path(scratch) / f"{stem}_pb2.pyi").read_text()))


def compile_all(scratch: Path) -> descriptor_pb2.FileDescriptorSet:
    """Run protoc once; .pyi files end up in `scratch`."""
    well_known = resources.files("grpc_tools") / "_proto"
    command = [
        "protoc",
        f"-I{HERE}",
        f"-I{well_known}",
        f"--descriptor_set_out={scratch / 'all.pb'}",
        f"--pyi_out={scratch}",
        *FILES,
    ]
    if protoc.main(command) != 0:
        raise SystemExit("protoc failed")
    return descriptor_pb2.FileDescriptorSet.FromString((scratch / "all.pb").read_bytes())


def module_text(file: descriptor_pb2.FileDescriptorProto) -> str:
    """A module that has every top-level message and enum of `file` under its own name."""
    imports = "".join(
        f"import tlserve.rpc._gen.{name.removesuffix('.proto')}_pb2  # the pool must know it first\n"
        for name in file.dependency
    )
    raw = file.SerializeToString(deterministic=True)
    blob = "\n".join(f"    {raw[at : at + BYTES_PER_LINE]!r}" for at in range(0, len(raw), BYTES_PER_LINE))
    return MODULE.format(proto=file.name, imports=imports, blob=blob)


def stub_text(text: str) -> str:
    """protoc's .pyi, with imports from inside the package."""
    return re.sub(r"^import (\w+_pb2) as", r"from tlserve.rpc._gen import \1 as", text, flags=re.MULTILINE)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
