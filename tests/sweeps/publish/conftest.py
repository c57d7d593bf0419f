"""Fixtures of the tests of publishing: a hub on loopback, and a run with two adapters."""

import logging
import os
import threading

import pytest

from sweeps.core.files import write_json
from sweeps.core.paths import RunPaths
from sweeps.core.tables import SCHEMAS, write_table

from .adapters import write_adapter
from .fake_hub import TOKEN, FakeHub


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


@pytest.fixture
def run(tmp_path) -> RunPaths:
    """A run with adapters of ranks 4 and 8, of which 8 is the chosen one."""
    paths = RunPaths(tmp_path / "run")
    experiment = {"sampling": {"rank": 8, "num_steps": 20, "guidance": 2.5}, "spanish": None}
    write_json(paths.plan, {"recipe": "demo", "seed": 0, "experiment": experiment, "trials": [], "images": []})
    steps = {rank: write_adapter(paths, rank) for rank in (4, 8)}
    none = {name: None for name in SCHEMAS["ranks"]}
    row = {"rank": 8, "base": "tiny (bundled, sha256 01234567)", "trial_id": steps[8].key, "chosen": True}
    write_table(paths.table("ranks"), "ranks", [none | row])
    return paths
