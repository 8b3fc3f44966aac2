"""The Python examples of docs/protocol.md run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rpc.colours import MODEL, picture
from tests.rpc.conftest import Running

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "protocol.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_an_example_of_the_protocol_page_runs(running: Running, tmp_path: Path, example: str) -> None:
    if "tritonclient" in example:
        pytest.importorskip("tritonclient.grpc")
    (tmp_path / "daisy.jpg").write_bytes(picture("red"))
    code = example.replace("127.0.0.1:8001", running.address).replace('"flowers"', f'"{MODEL}"')
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
