"""Uploading an adapter: the real hub client against a small hub on loopback; what arrives is what was trained."""

import hashlib
import json
import re
import socket
import subprocess
import sys

import pytest

from fulora.errors import InputError
from sweeps.core.files import write_json
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, write_table
from sweeps.publish.upload import plan_upload

from .adapters import FILES, TO, call


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
    hub.repos["jane/open"] = {"kind": "model", "private": False, "files": {}}
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
def test_an_incomplete_adapter_is_refused(capsys, run, hub, name):
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


def test_nothing_loads_the_hub_client_at_start():
    program = (
        "import sweeps.cli, sweeps.publish.hub, sweeps.publish.paper, sys; print('huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_a_rank_chosen_by_a_score_is_the_one_uploaded(run: RunPaths) -> None:
    plan = json.loads(run.plan.read_text())
    plan["experiment"] |= {"choose_rank": "kid", "sampling": {"rank": 4}}
    write_json(run.plan, plan)
    ranks = read_rows(run.table("ranks"), "ranks")
    run.table("ranks").unlink()
    with pytest.raises(InputError, match=r"chosen by kid[\s\S]*sweeps sample"):
        plan_upload(run, to=TO)
    write_table(run.table("ranks"), "ranks", ranks)
    assert plan_upload(run, to=TO).rank == 8
    assert plan_upload(run, to=TO, rank=4).rank == 4
    plan["experiment"]["choose_rank"] = "given"
    write_json(run.plan, plan)
    assert plan_upload(run, to=TO).rank == 4
