"""A stand-in for the Hugging Face hub: model repositories in memory behind its HTTP interface."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a mapping from paths to contents."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[str] = []  # which repository each went to

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'lab'}/{asked['name']}"
            if repo in self.server.repositories:
                return self._answer({"url": f"{self.server.address}/{repo}"}, status=409)
            self.server.repositories[repo] = {}
            self.server.private[repo] = asked.get("private", False) or asked.get("visibility") == "private"
            return self._answer({"url": f"{self.server.address}/{repo}", "id": repo})
        if self.path == "/api/validate-yaml":  # of a card's head
            head = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return self._answer(
                {"errors": [] if isinstance(head, dict) else [{"message": "no mapping"}], "warnings": []}
            )
        repo = self._repo()
        if "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        assert "/commit/" in self.path, self.path
        held = self.server.repositories[repo]
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                held[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del held[entry["value"]["path"]]
        self.server.commits.append(repo)
        self._answer({"commitUrl": f"{self.server.address}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40})

    def do_GET(self) -> None:
        repo = self._repo()
        if repo not in self.server.repositories:
            return self._answer({"error": "Repository not found"}, status=404, code="RepoNotFound")
        held = self.server.repositories[repo]
        if "/resolve/" in self.path:
            name = self.path.split("/resolve/")[1].partition("/")[2].partition("?")[0]
            return self._send(held[name], "application/octet-stream")
        if "/tree/" in self.path:
            return self._answer(
                [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in held.items()]
            )
        siblings = [{"rfilename": name} for name in held]
        self._answer({"id": repo, "sha": "0" * 40, "siblings": siblings, "private": self.server.private[repo]})

    do_HEAD = do_GET

    def _repo(self) -> str:
        found = re.match(r"/(?:api/models/)?([^/]+/[^/?]+)", self.path)
        assert found, self.path
        return found[1]

    def _answer(self, content: Any, status: int = 200, code: str = "") -> None:
        self._send(json.dumps(content).encode(), "application/json", status, code)

    def _send(self, body: bytes, kind: str, status: int = 200, code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:x}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a port of this machine while the block runs."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
