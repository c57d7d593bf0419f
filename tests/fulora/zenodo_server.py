"""A server on this machine that plays Zenodo's record API, and misbehaves."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fulora.data.fetch import RECORDS

FAST = (0.01, 0.01, 0.01)
"""Waits between tries, for a server beside us."""


@dataclass
class Zenodo:
    """A server that plays the record API: what it holds, how it misbehaves, what it was asked."""

    files: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    """Record number to the name and bytes of its one file."""
    says: dict[int, object] = field(default_factory=dict)
    """Record number to an answer sent in place of the true one."""
    checksum: str = ""
    """Stated in place of the true one."""
    size_bytes: int = 0
    """Stated in place of the true one."""
    ranges: bool = True
    """Whether it sends parts."""
    cuts: list[int] = field(default_factory=list)
    """For each request of a file, in order: bytes after which the connection is dropped."""
    statuses: list[int] = field(default_factory=list)
    """For each request of a file, in order, before any is answered: a refusal."""
    stall: threading.Event | None = None
    """Waited for once, at half of a file."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range of every request."""
    sent_bytes: int = 0
    """Bytes of files that were sent."""
    address: str = ""

    @property
    def api(self) -> str:
        return f"{self.address}/api/records"

    def hold(self, source: str, content: bytes) -> None:
        name = {"spanish": "FETAL_PLANES_ZENODO.zip", "african": "Zenodo_dataset.tar.xz"}[source]
        self.files[RECORDS[source].record] = (name, content)

    def record(self, number: int) -> object:
        """Return the answer for a record, in the form that Zenodo's has; of its many fields, those near `files`."""
        name, content = self.files[number]
        return {
            "id": number,
            "status": "published",
            "links": {"self": f"{self.api}/{number}"},
            "files": [
                {
                    "id": "ca3799c8-b6a7-411b-8041-604b19b684b5",
                    "key": name,
                    "size": self.size_bytes or len(content),
                    "checksum": self.checksum or f"md5:{hashlib.md5(content).hexdigest()}",
                    "links": {"self": f"{self.api}/{number}/files/{name}/content"},
                }
            ],
        }


def handler_of(zenodo: Zenodo) -> type[BaseHTTPRequestHandler]:
    """Return the class of the server's answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            zenodo.asked.append((self.path, self.headers.get("Range", "")))
            assert self.headers["User-Agent"].startswith("fulora/")
            number = int(self.path.split("/")[3])
            if number not in self.files_and_answers():
                self.answer(404, b'{"status": 404}')
            elif self.path.endswith("/content"):
                self.send_file(zenodo.files[number][1])
            else:
                said = zenodo.says.get(number)
                self.answer(
                    200, said if isinstance(said, bytes) else json.dumps(said or zenodo.record(number)).encode()
                )

        def files_and_answers(self) -> set[int]:
            return {*zenodo.files, *zenodo.says}

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def send_file(self, content: bytes) -> None:
            if zenodo.statuses:
                self.answer(zenodo.statuses.pop(0), b"")
                return
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if zenodo.ranges else None
            first = int(found[1]) if found else 0
            if first >= len(content):
                self.answer(416, b"")
                return
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            end = min(first + zenodo.cuts.pop(0), len(content)) if zenodo.cuts else len(content)
            if zenodo.stall and not zenodo.stall.is_set():
                half = (first + end) // 2
                self.send_part(content[first:half])
                zenodo.stall.wait(30)
                first = half
            self.send_part(content[first:end])
            if end < len(content):
                self.close_connection = True

        def send_part(self, part: bytes) -> None:
            zenodo.sent_bytes += len(part)  # first: whoever asked may be done before the next line here
            try:
                self.wfile.write(part)
                self.wfile.flush()
            except OSError:  # the one who asked is gone
                self.close_connection = True

    return Handler


@contextmanager
def serving() -> Iterator[Zenodo]:
    """Give a running server."""
    zenodo = Zenodo()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(zenodo))
    server.daemon_threads = True
    zenodo.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield zenodo
    finally:
        if zenodo.stall:
            zenodo.stall.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Noted:
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def say(self, text: str) -> None:
        self.said.append(text)

    def moved(self, what: str, done_bytes: int, total_bytes: int) -> None:
        assert 0 <= done_bytes <= total_bytes


def command(zenodo: Zenodo, to: Path, *sources: str) -> list[str]:
    """Return the command line."""
    program = "from fulora.cli import main; main()"
    return [sys.executable, "-c", program, "fetch", *sources, "--to", str(to), "--api", zenodo.api]


def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]
