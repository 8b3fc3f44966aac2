"""Liveness and readiness over HTTP, at the paths of the Open Inference Protocol.

The dashboard and REST predictions are not here yet; the page at `/` says where predictions are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tlserve.core.errors import OperatorError

_MODEL_READY = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/ready")


class HealthServer:
    """Answers GET /v2/health/live, /v2/health/ready and /v2/models/NAME[/versions/N]/ready.

    server_ready, model_ready: asked on the server's threads; they must not block.
    """

    def __init__(
        self,
        address: str,
        *,
        server_ready: Callable[[], bool],
        model_ready: Callable[[str, str], bool],
        about: Callable[[], dict[str, object]],
    ) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._server_ready, self._model_ready, self._about = server_ready, model_ready, about
        self._server: ThreadingHTTPServer | None = None
        self._thread: Thread | None = None

    def start(self) -> str:
        """Listen; returns HOST:PORT as bound. Raises OperatorError when the address is taken."""
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes are not news."""

        try:
            self._server = ThreadingHTTPServer((self._host, self._port), Handler)
        except OSError as exc:
            raise OperatorError(
                f"HTTP address {self._host}:{self._port} cannot be used: {exc.strerror}; "
                "choose another with --http HOST:PORT"
            ) from exc
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()
        return f"{self._host}:{self._server.server_port}"

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _answer(self, path: str) -> tuple[HTTPStatus, bytes]:
        if path == "/v2/health/live":
            return _ready(True)
        if path == "/v2/health/ready":
            return _ready(self._server_ready())
        if asked := _MODEL_READY.fullmatch(path):
            return _ready(self._model_ready(asked[1], asked[2] or ""))
        if path == "/":
            return HTTPStatus.OK, json.dumps(self._about(), indent=2).encode() + b"\n"
        return HTTPStatus.NOT_FOUND, b'{"error": "no such page; predictions are answered over gRPC"}\n'


def _ready(ready: bool) -> tuple[HTTPStatus, bytes]:
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return status, json.dumps({"ready": ready}).encode() + b"\n"
