"""A hub that takes commits, as that of Hugging Face does, and keeps what it was given."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from huggingface_hub import constants


@contextmanager
def a_hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A hub on this machine: its address, and the files that were committed, by name."""
    received: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = json.dumps(_answer(self.path.split("/"), body, received)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        constants.HF_HUB_OFFLINE = offline
        server.shutdown()
        server.server_close()


def _answer(path: list[str], body: bytes, received: dict[str, bytes]) -> dict[str, Any]:
    if "preupload" in path:
        names = [file["path"] for file in json.loads(body)["files"]]
        known = {"uploadMode": "regular", "shouldIgnore": False}
        return {"files": [{"path": name, **known} for name in names]}
    if "commit" in path:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                received[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": "http://127.0.0.1/user/name/commit/0", "commitOid": "0" * 40}
    return {"warnings": [], "errors": []}
