"""Images drawn to an address: Parquet with the bytes inside or files, in a folder or on S3, counted and never twice."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fulora.diffusion.sampler import SamplingConfig
from fulora.errors import InputError
from fulora.experiment import Experiment
from sweeps import image_output
from sweeps.console.progress import Quiet
from sweeps.core.tables import read_rows
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.image_output import Destination, draw_to
from sweeps.image_sets import ImageSet
from sweeps.record import StageFailed
from sweeps.sampling_actors import SampleShards

CONFIG = SamplingConfig(images_per_plane=5, num_steps=1, batch_size=2)


class Counts(Quiet):
    """Counts the images drawn."""

    images = 0

    def advance(self, count: int) -> None:
        self.images += count


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch):
    """Give the address of an empty bucket on a real S3 server on loopback."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    system = S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
    bucket = f"synthetic-{uuid.uuid4().hex[:8]}"  # the server's memory outlives it
    system.create_dir(bucket)
    yield f"s3://{bucket}/set?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


@pytest.fixture
def experiment(mini_experiment: Experiment) -> Experiment:
    return replace(mini_experiment, lora=replace(mini_experiment.lora, resolution_px=32))


def in_this_process(todo, *, experiment, sets, adapters, sink, cluster, progress) -> int:
    """Do what `draw_shards` does with its one actor, without Ray, whose start takes longer than the work."""
    if not len(todo):
        return 0
    done = SampleShards(experiment, sets, adapters, sink, 1, False).draw({"set": todo[:, 0], "shard": todo[:, 1]})
    assert not any(done["error"]), done["error"]
    progress.advance(sum(done["num_images"]))
    return sum(done["num_images"])


def drawn(destination: Destination, experiment: Experiment, cluster: Cluster | None = None, **changes) -> int:
    """Draw a set of the base to a destination and return how many images were drawn."""
    which = ImageSet(label="base", rank=None, adapter_id="x", config=replace(CONFIG, **changes), seed=3, chosen=True)
    counts = Counts()
    num = draw_to(destination, which, experiment=experiment, adapter=None, cluster=cluster, progress=counts)
    assert counts.images == num
    return num


@pytest.fixture
def draw(experiment: Experiment, monkeypatch: pytest.MonkeyPatch):
    """Give a function that draws in this process."""
    monkeypatch.setattr(image_output, "IMAGES_PER_FILE", 4)
    monkeypatch.setattr(image_output, "draw_shards", in_this_process)
    return partial(drawn, experiment=experiment)


def rows_of(folder: Path) -> list[dict]:
    return [row for file in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_parquet_holds_each_image_once_and_a_larger_set_adds_to_it(draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"))
    assert draw(there) == 50
    rows = rows_of(tmp_path / "set")
    assert len(rows) == len({row["image_id"] for row in rows}) == 50
    for row in rows:
        assert hashlib.sha256(row["image"]).hexdigest() == row["sha256"]
        assert np.asarray(Image.open(io.BytesIO(row["image"]))).shape == (32, 32, 3)
    names = {file.name for file in (tmp_path / "set" / "data").iterdir()}
    assert "brain-euler-00000000-4.parquet" in names and "brain-euler-00000004-1.parquet" in names
    assert draw(there) == 0
    assert draw(there, images_per_plane=7) == 30, "the last file of each plane and sampler is made anew, and full"
    larger = rows_of(tmp_path / "set")
    assert len(larger) == 70
    old = {row["image_id"]: row["sha256"] for row in rows}
    assert {k: v for k, v in ((r["image_id"], r["sha256"]) for r in larger) if k in old} == old
    assert draw(there) == 0, "a smaller set is there already"
    assert len(rows_of(tmp_path / "set")) == 70


def test_a_torn_or_lost_file_is_drawn_again(draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"))
    draw(there)
    first, second, *_ = sorted((tmp_path / "set" / "data").glob("*-4.parquet"))
    first.write_bytes(first.read_bytes()[:-10])
    second.unlink()
    with pytest.raises(StageFailed, match=r"4 of 50 images are not at"):
        draw(there)
    assert not first.exists() and second.exists()
    assert draw(there) == 4
    assert len(rows_of(tmp_path / "set")) == 50


def test_files_that_are_not_ours_are_left_alone(draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"))
    (tmp_path / "set" / "data").mkdir(parents=True)
    for name in ("README", "_SUCCESS.parquet", "a-b.parquet"):
        (tmp_path / "set" / "data" / name).touch()
    assert draw(there) == 50
    assert len(list((tmp_path / "set" / "data").iterdir())) == 23


def test_an_address_is_shown_without_its_credentials() -> None:
    assert str(Destination(address="s3://KEY:SECRET@bucket/set?region=x")) == "s3://bucket/set?region=x"
    with pytest.raises(InputError) as raised:
        Destination(address="gopher://KEY:SECRET@x/y").claim(
            ImageSet(label="base", rank=None, adapter_id="x", config=CONFIG, seed=3, chosen=True)
        )
    assert "SECRET" not in raised.value.faults[0] and "gopher" in raised.value.faults[0]


def test_files_are_an_image_folder(draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"), form="files")
    assert draw(there) == 50
    rows = read_rows(tmp_path / "set" / "metadata.parquet", "metadata")
    assert len(rows) == 50 and len(list((tmp_path / "set").rglob("*.png"))) == 50
    for row in rows:
        assert hashlib.sha256((tmp_path / "set" / row["file_name"]).read_bytes()).hexdigest() == row["sha256"]
    (tmp_path / "set" / rows[0]["file_name"]).unlink()
    with pytest.raises(StageFailed, match="1 images that were drawn are no more at"):
        draw(there)
    assert draw(there) == 4, "its shard"


def test_an_address_that_holds_another_set_is_refused(draw, tmp_path: Path) -> None:
    draw(Destination(address=str(tmp_path / "set")))
    with pytest.raises(InputError, match=r"to: .* holds another set .its science"):
        draw(Destination(address=str(tmp_path / "set")), guidance=3.0)
    with pytest.raises(InputError, match=r"to: .* holds another set .its form"):
        draw(Destination(address=str(tmp_path / "set"), form="files"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"to: .* cannot be used"):
        draw(Destination(address=str(tmp_path / "file" / "set")))


@pytest.mark.parametrize("form", ["parquet", "files"])
def test_s3_gets_the_same_images_as_a_folder(draw, s3: str, tmp_path: Path, form) -> None:
    remote = Destination(address=s3, form=form)
    assert draw(remote) == 50
    assert draw(remote) == 0
    about = json.loads(remote.get("set.json") or b"")
    assert about["sampling"]["num_steps"] == 1 and about["form"] == form
    draw(Destination(address=str(tmp_path / "set"), form=form))
    if form == "parquet":
        tables = [pq.read_table(io.BytesIO(remote.get(name) or b"")) for name in sorted(remote.names("data"))]
        assert [row for table in tables for row in table.to_pylist()] == rows_of(tmp_path / "set")
    else:
        table = pq.read_table(io.BytesIO(remote.get("metadata.parquet") or b""))
        assert table.to_pylist() == read_rows(tmp_path / "set" / "metadata.parquet", "metadata")
        png = remote.get(table["file_name"][7].as_py()) or b""
        assert hashlib.sha256(png).hexdigest() == table["sha256"][7].as_py()


def test_an_s3_address_that_cannot_be_used_says_so_before_anything_is_drawn(draw, s3: str) -> None:
    with pytest.raises(InputError, match=r"to: .* cannot be used .*NO_SUCH_BUCKET.*credentials, region"):
        draw(Destination(address=s3.replace("s3://synthetic-", "s3://nowhere-")))
    with pytest.raises(InputError, match="to: 'gopher://x/y' cannot be used"):
        draw(Destination(address="gopher://x/y"))


@pytest.mark.slow
def test_actors_write_to_s3_themselves(s3: str, experiment: Experiment) -> None:
    with connected(ClusterOptions(num_cpus=1)) as cluster:  # its actors have the credentials of this moment
        assert drawn(Destination(address=s3), experiment, cluster) == 50
    remote = Destination(address=s3)
    tables = [pq.read_table(io.BytesIO(remote.get(name) or b"")) for name in sorted(remote.names("data"))]
    assert [table.num_rows for table in tables] == [5] * 10
