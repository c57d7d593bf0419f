"""A small Hugging Face hub on loopback: the part of its API that an upload needs."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

LARGE = (".safetensors", ".parquet", ".png")
"""Files that go to the large file storage."""
TOKEN = "hf_a_token_of_nobody"


class FakeHub(ThreadingHTTPServer):
    """The part of the hub's API an upload needs: repositories, preupload, Git LFS, commits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.created: list[dict] = []
        self.repos: dict[str, dict] = {}
        """Per repository whether it is private, and the bytes of its files."""
        self.stored: dict[str, bytes] = {}
        """What was PUT, by SHA-256."""
        self.commits: list[dict] = []
        self.forbidden = False
        self.on_stored = lambda: None


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_) -> None:
        pass

    def answer(self, code: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def handle_any(self) -> None:
        hub, body, path = self.server, self.body(), self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        stored = re.fullmatch(r"/stored/(\w+)", path)
        if self.command == "PUT" and stored:  # an address of its own, as S3's: no token
            if hashlib.sha256(body).hexdigest() != stored[1]:
                return self.answer(400, {"error": "other bytes than announced"})
            hub.stored[stored[1]] = body
            hub.on_stored()
            return self.answer(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            assert yaml.safe_load(text.split("---")[1])
            return self.answer(200, {})
        repo = re.match(r"(?:/api/models|/api/datasets|/datasets)?/([\w.-]+/[\w-]+)", path)
        if repo is None or repo[1] not in hub.repos:
            return self.answer(404, {"error": "Repository not found"})
        return self.about(repo[1], path, body)

    def create(self, wanted: dict) -> None:
        hub = self.server
        hub.created.append(wanted)
        name = f"{wanted['organization']}/{wanted['name']}"
        if hub.forbidden:
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in hub.repos:
            return self.answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
        kind, private = wanted.get("type", "model"), wanted.get("visibility") == "private"
        hub.repos[name] = {"kind": kind, "private": private, "files": {}}
        return self.answer(200, {"url": f"{hub.url}/{name}", "name": name})

    def about(self, name: str, path: str, body: bytes) -> None:
        hub, repo = self.server, self.server.repos[name]
        home = f"/api/{repo['kind']}s/{name}"
        if path in (home, f"{home}/revision/main"):
            return self.answer(200, {"id": name, "private": repo["private"], "sha": "0" * 40, "siblings": []})
        if path.endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": object_id(file["path"], repo["files"].get(file["path"])),
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for wanted in objects:
                if wanted["oid"] not in hub.stored:
                    wanted["actions"] = {
                        "upload": {"href": f"{hub.url}/stored/{wanted['oid']}"},
                        "verify": {"href": f"{hub.url}/api/models/{name}/verify"},
                    }
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if path.endswith("/verify"):
            wanted = json.loads(body)
            whole = len(hub.stored[wanted["oid"]]) == wanted["size"]
            return self.answer(200 if whole else 400, {})
        if path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            assert self.headers["Content-Type"] == "application/x-ndjson" and lines[0]["key"] == "header"
            for line in lines[1:]:
                value = line["value"]
                is_large = line["key"] == "lfsFile"
                content = hub.stored[value["oid"]] if is_large else base64.b64decode(value["content"])
                repo["files"][value["path"]] = content
            hub.commits.append({"summary": lines[0]["value"]["summary"], "num_files": len(lines) - 1})
            oid = f"{len(hub.commits):040x}"
            return self.answer(200, {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid})
        return self.answer(404, {"error": f"no {path}"})

    do_GET = do_POST = do_PUT = handle_any


def object_id(path: str, content: bytes | None) -> str | None:
    if content is None:
        return None
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
