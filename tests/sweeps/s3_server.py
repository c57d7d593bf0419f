"""A real S3 server on loopback (moto's) that can be told to be slow, to fail and to refuse, and counts its requests."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from pyarrow.fs import S3FileSystem

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_EC2_METADATA_DISABLED": "true"}
"""Environment of whoever asks the server; it takes any."""
Answer = Callable[[str, str], tuple[int, str] | None]
"""Takes method and path, and returns status and error code of a refusal, None where the server is to answer."""
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>as told</Message></Error>'


class LoopbackS3:
    """A server with one empty bucket; a context manager that ends it."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        self.app = DomainDispatcherApplication(create_backend_app)
        self.answer: Answer = lambda method, path: None
        self.seconds = 0.0
        """Time it takes before it answers."""
        self.asked: list[tuple[str, str]] = []
        """Method and path within the bucket of every request."""
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.bucket = f"storage-{uuid.uuid4().hex[:8]}"  # moto's memory outlives the server
        S3FileSystem(
            endpoint_override=self.host, scheme="http", allow_bucket_creation=True, access_key="x", secret_key="y"
        ).create_dir(self.bucket)

    def address(self, folder: str = "set", *, credentials: str = "") -> str:
        """Return the address of a folder in the bucket."""
        return f"s3://{credentials}{self.bucket}/{folder}?endpoint_override={self.host}&scheme=http&region=us-east-1"

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"]).removeprefix(f"/{self.bucket}/")
        self.asked.append((method, path))
        time.sleep(self.seconds)
        if (refusal := self.answer(method, path)) is None:
            return self.app(environ, start)
        status, code = refusal
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = b"" if method == "HEAD" else _ERROR.format(code).encode()
        start(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def __enter__(self) -> LoopbackS3:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
