"""What the trainer's process logs."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging
from tlserve.pipeline.__main__ import log_to_stderr

log_to_stderr()
logging.getLogger("onnx_ir.passes.common").info("noise")
logging.getLogger("onnxscript.rewriter").warning("warned")
logging.getLogger("a_plugin").info("told")
"""


def test_plugins_are_heard_and_the_exporters_chatter_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["onnxscript.rewriter: warned", "a_plugin: told"]
