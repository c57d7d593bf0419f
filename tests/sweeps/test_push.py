"""Uploading an adapter: the real hub client against a small hub on loopback; what arrives is what was trained."""

import base64
import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from fulora.errors import InputError
from sweeps.cli import main
from sweeps.core.paths import RunPaths, write_json
from sweeps.push import _sampled_rank, plan_upload
from sweeps.core.tables import SCHEMAS, write_table
from sweeps.trials import Attempt

TOKEN = "hf_a_token_of_nobody"
TO = "jane/fu-lora"
FILES = ["kohya.safetensors", "loss.parquet", "pytorch_lora_weights.safetensors", "trial.json"]
CONFIG = {
    "base": "tiny", "rank": 4, "alpha": 4.0, "num_steps": 30, "batch_size": 2, "learning_rate": 1e-3,
    "text_encoder_rate": 0.0, "targets": "cross_attention", "resolution_px": 64, "clip_skip": None,
    "images_per_plane": 20,
}  # fmt: skip


def call(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return int(stop.value.code or 0), said.out, said.err


class FakeHub(ThreadingHTTPServer):
    """The part of the hub's API an upload needs: repositories, preupload, Git LFS, commits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
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


class _Answers(BaseHTTPRequestHandler):
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
        repo = re.match(r"(?:/api/models)?/([\w.-]+/[\w-]+)", path)
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
        hub.repos[name] = {"private": wanted.get("visibility") == "private", "files": {}}
        return self.answer(200, {"url": f"{hub.url}/{name}", "name": name})

    def about(self, name: str, path: str, body: bytes) -> None:
        hub, repo = self.server, self.server.repos[name]
        if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
            return self.answer(200, {"id": name, "private": repo["private"], "sha": "0" * 40, "siblings": []})
        if path.endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".parquet")) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(file["path"], repo["files"].get(file["path"])),
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


def _oid(path: str, content: bytes | None) -> str | None:
    if content is None:
        return None
    if path.endswith((".safetensors", ".parquet")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The client's settings as on a machine that is logged in and on line, without Xet, which needs a store of its own.

    The client reads them once, when it is imported; a user sets HF_HUB_OFFLINE and HF_HUB_DISABLE_XET beforehand.
    """
    from huggingface_hub import close_session, constants

    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    # Its handler keeps the standard error of the test in which the client was imported.
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [])
    close_session()
    yield monkeypatch
    close_session()


@pytest.fixture
def hub(settings):
    with FakeHub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        settings.setenv("HF_ENDPOINT", server.url)
        yield server
        server.shutdown()


def write_adapter(paths: RunPaths, rank: int, **changes) -> Path:
    """Write the folder of an adapter and the record of its training, as the sweep leaves them."""
    import torch

    from fulora.diffusion.formats import AdapterWeights, save_diffusers, save_kohya

    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    made = torch.Generator().manual_seed(rank)
    down, up = torch.randn(rank, 32, generator=made), torch.randn(32, rank, generator=made)
    weights = AdapterWeights(rank=rank, alpha=float(rank), down={module: down}, up={module: up})
    folder, trial_id = paths.adapter(rank), f"{rank:012x}"
    file = save_diffusers(weights, folder)
    save_kohya(weights, folder / "kohya.safetensors")
    losses = [(10, None), (20, 0.21), (30, 0.1234)]
    write_table(folder / "loss.parquet", "loss", [{"step": s, "loss": 0.2, "heldout_loss": h} for s, h in losses])
    config = CONFIG | {"rank": rank, "alpha": float(rank)} | changes
    write_json(folder / "trial.json", {"trial_id": trial_id, "label": f"rank {rank}", "config": config})
    metrics = {
        "adapter_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "base_name": f"{config['base']} (of the attempt)",
        "num_images": 97,
    }
    Attempt(
        trial_id=trial_id, stage="lora", label=f"rank {rank}", attempt=1, status="SUCCEEDED", config=config,
        metrics=metrics,
    ).save(paths)  # fmt: skip
    return folder


@pytest.fixture
def run(tmp_path) -> RunPaths:
    """A run with adapters of ranks 4 and 8, of which 8 is the chosen one."""
    paths = RunPaths(tmp_path / "run")
    experiment = {"sampling": {"rank": 8, "num_steps": 20, "guidance": 2.5}, "spanish": None}
    write_json(paths.plan, {"recipe": "demo", "seed": 0, "experiment": experiment, "trials": [], "images": []})
    for rank in (4, 8):
        write_adapter(paths, rank)
    none = {name: None for name in SCHEMAS["ranks"]}
    row = {"rank": 8, "base": "tiny (bundled, sha256 01234567)", "trial_id": f"{8:012x}"}
    write_table(paths.table("ranks"), "ranks", [none | row])
    return paths


def test_what_arrives_is_what_was_trained(capsys, run, hub):
    (run.adapter(8) / "patient-7.png").write_bytes(b"not for others")
    code, out, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 0, err
    assert out.strip() == f"{hub.url}/{TO}" and "data file" not in err
    arrived = dict(hub.repos[TO]["files"])
    card = arrived.pop("README.md").decode()
    assert arrived == {name: (run.adapter(8) / name).read_bytes() for name in FILES}
    assert hub.commits == [{"summary": "Upload the adapter of rank 8", "num_files": 5}]
    assert {k: hub.created[0].get(k) for k in ("organization", "name", "visibility")} == {
        "organization": "jane", "name": "fu-lora", "visibility": None,
    }  # fmt: skip
    for name, content in arrived.items():
        assert f"| {name} | {len(content)} | `{hashlib.sha256(content).hexdigest()}` |" in card
    for row in (
        "| base model | tiny (bundled, sha256 01234567) |", "| rank | 8 |", "| alpha | 8 |",
        "| steps | 30, of batch size 2 |", "| learning rate | 0.001 |", "| layers | cross-attention of the U-Net |",
        "| images | 97, simulated (phantoms), 64 px |", "| held-out loss | 0.1234 |",
    ):  # fmt: skip
        assert row in card


def test_pushed_again_nothing_is_sent_twice_and_another_rank_replaces_it(capsys, run, hub):
    for _ in range(2):
        assert call(capsys, "push", run.root, "--to", TO)[0] == 0
    assert len(hub.commits) == 1
    assert sum(request.startswith("PUT") for request in hub.requests) == 3
    assert call(capsys, "push", run.root, "--to", TO, "--rank", 4)[0] == 0
    arrived = hub.repos[TO]["files"]
    assert {name: arrived[name] for name in FILES} == {n: (run.adapter(4) / n).read_bytes() for n in FILES}
    assert b"| base model | tiny (of the attempt) |" in arrived["README.md"]


def test_a_private_repository(capsys, run, hub):
    assert call(capsys, "push", run.root, "--to", TO, "--private")[0] == 0
    assert hub.created[0]["visibility"] == "private" and len(hub.commits) == 1
    hub.repos["jane/open"] = {"private": False, "files": {}}
    code, _, err = call(capsys, "push", run.root, "--to", "jane/open", "--private")
    assert code == 2 and "is public" in err
    assert hub.repos["jane/open"]["files"] == {} and len(hub.commits) == 1


def test_a_token_the_hub_does_not_take(capsys, run, hub, settings):
    settings.setenv("HF_TOKEN", "hf_of_somebody_else")
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and "unauthorised" in err and "hf auth login" in err and "HF_TOKEN" in err
    assert "hf_of_somebody_else" not in err and hub.stored == {} and hub.repos == {}


def test_no_token_at_all(capsys, run, hub, settings):
    settings.delenv("HF_TOKEN")
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and "needs a token" in err and "hf auth login" in err and hub.requests == []


def test_a_namespace_of_somebody_else(capsys, run, hub):
    hub.forbidden = True
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and TO in err and "403" in err and "rights to create" in err and hub.repos == {}


def test_a_hub_that_is_not_there(capsys, run, settings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        settings.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and "cannot be reached" in err and "HF_ENDPOINT" in err


def test_offline(capsys, run, hub, settings):
    from huggingface_hub import constants

    settings.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and "HF_HUB_OFFLINE" in err and hub.requests == []


def test_an_endpoint_without_xet_says_how_to_do_without(capsys, run, hub, settings):
    pytest.importorskip("hf_xet")
    from huggingface_hub import constants

    settings.setattr(constants, "HF_HUB_DISABLE_XET", False)
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and "HF_HUB_DISABLE_XET=1" in err and hub.commits == []


def test_a_dry_run_contacts_nothing(capsys, run, hub, settings):
    from huggingface_hub import constants

    def connect(*_):
        raise AssertionError("a dry run opened a connection")

    settings.setattr(socket.socket, "connect", connect)
    settings.setattr(constants, "HF_HUB_OFFLINE", True)
    settings.delenv("HF_TOKEN")
    code, out, err = call(capsys, "push", run.root, "--to", TO, "--dry-run", "--private")
    assert code == 0, err
    assert f"{TO} (private)" in out and hub.requests == []
    for name in FILES:
        assert re.search(rf"{name} +{(run.adapter(8) / name).stat().st_size:,} bytes", out)
    assert plan_upload(run, to=TO).card in out


def test_a_rank_the_run_does_not_have(capsys, run, hub):
    code, _, err = call(capsys, "push", run.root, "--to", TO, "--rank", 128)
    assert code == 2 and "rank: 128" in err and "there are 4, 8" in err and hub.requests == []


def test_a_run_without_adapters(capsys, tmp_path, hub):
    write_json(tmp_path / "empty" / "plan.json", {"recipe": "demo"})
    code, _, err = call(capsys, "push", tmp_path / "empty", "--to", TO)
    assert code == 2 and "no adapter" in err
    code, _, err = call(capsys, "push", tmp_path, "--to", TO)
    assert code == 2 and "plan.json" in err and hub.requests == []


@pytest.mark.parametrize("to", ["fu-lora", "a/b/c", "jane/", "/x", "jane/fu lora", "jane/a--b", "jane/x.git", "../x"])
def test_a_name_that_is_no_repository(capsys, run, hub, to):
    code, _, err = call(capsys, "push", run.root, "--to", to)
    assert code == 2 and "OWNER/NAME" in err and hub.requests == []


@pytest.mark.parametrize("name", ["trial.json", "pytorch_lora_weights.safetensors"])
def test_an_adapter_that_is_not_whole(capsys, run, hub, name):
    (run.adapter(8) / name).unlink()
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and f"has no {name}" in err and hub.requests == []


def test_an_adapter_that_is_not_the_recorded_one(capsys, run, hub):
    file = run.adapter(8) / "pytorch_lora_weights.safetensors"
    file.write_bytes((run.adapter(4) / file.name).read_bytes())
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and str(file) in err and "recorded" in err and hub.requests == []


def test_a_trial_that_is_not_ours(capsys, run, hub):
    for text in ("{", "[]", '{"trial_id": "a", "config": {"rank": 8}}'):
        (run.adapter(8) / "trial.json").write_text(text)
        code, _, err = call(capsys, "push", run.root, "--to", TO)
        assert code == 2 and "trial.json" in err and hub.requests == []


def test_an_adapter_replaced_while_it_is_uploaded_is_not_committed(capsys, run, hub):
    hub.on_stored = lambda: (run.adapter(8) / "trial.json").write_text("{}")
    code, _, err = call(capsys, "push", run.root, "--to", TO)
    assert code == 2 and "was replaced" in err
    assert len(hub.stored) == 3 and hub.commits == []


def card_of(run: RunPaths, **changes) -> tuple[dict, str, str]:
    """Return a card's metadata, its text and its lines of Python, of a rank without a row in the table of ranks."""
    write_adapter(run, 4, **changes)
    card = plan_upload(run, to=TO, rank=4).card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    return yaml.safe_load(card.split("---\n")[1]), card, code


@pytest.mark.parametrize("base", ["tiny", "random:sd15"])
def test_a_card_says_when_the_base_is_not_stable_diffusion(run, base):
    about, card, code = card_of(run, base=base)
    assert "This is not Stable Diffusion" in card and f"`{base}`" in card
    assert "base_model" not in about and f'load_base("{base}")' in code


def test_a_card_of_a_hub_base_names_it(run):
    about, card, code = card_of(run, base="someone/sd15", clip_skip=1, text_encoder_rate=5e-5, targets=r".*attn1|ff")
    assert about["base_model"] == "someone/sd15" and "not Stable Diffusion" not in card
    assert 'from_pretrained("someone/sd15")' in code and f'pipe.load_lora_weights("{TO}"' in code
    assert "num_inference_steps=20, guidance_scale=2.5, clip_skip=1, width=64, height=64" in code
    assert "text encoder: 5e-05" in card and r".*attn1\|ff" in card


@pytest.mark.parametrize(("name", "loader"), [("sd15", "from_pretrained"), ("sd15.safetensors", "from_single_file")])
def test_a_card_does_not_say_where_a_base_lies_on_a_disk(capsys, run, tmp_path, name, loader):
    base = str(tmp_path / "secret" / name)
    about, card, code = card_of(run, base=base)
    assert "secret" not in card and "base_model" not in about
    assert f"| base model | {name} (of the attempt) |" in card and f'{loader}("PATH/TO/{name}")' in code
    code, out, _ = call(capsys, "push", run.root, "--to", TO, "--rank", 4, "--dry-run")
    assert code == 0 and f"trial.json names the base by its path on this machine: {base}" in out


def test_nothing_loads_the_hub_client_at_start():
    program = "import sweeps.cli, sweeps.push, sys; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_a_rank_chosen_by_a_score_is_the_one_uploaded(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    settings = {"choose_rank": "kid", "sampling": {"rank": 128}}
    with pytest.raises(InputError, match=r"chosen by kid[\s\S]*sweeps sample"):
        _sampled_rank(settings, paths)
    write_json(paths.rank, {"key": "x", "rank": 8, "why": "y"})
    assert _sampled_rank(settings, paths) == 8
    assert _sampled_rank({"sampling": {"rank": 128}}, paths) == 128
