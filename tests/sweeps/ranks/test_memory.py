"""Fine-tunings share a GPU where a measured one fits, and the run says what it took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fulora.experiment import Experiment
from sweeps.console.progress import Quiet
from sweeps.core.attempts import AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.engine.options import ClusterOptions
from sweeps.ranks.finetune import measure_ranks
from sweeps.run import run

from ..studies import one_thread, planned


def test_the_memory_of_fine_tunings_is_that_of_the_largest_of_their_ranks(
    mini_experiment: Experiment, tmp_path: Path
) -> None:
    """The memory is the process's here, for there is no card; the steps measured are the real ones."""
    paths = RunPaths(tmp_path)
    ranks = planned(mini_experiment, paths).ranks
    assert ranks[0].kind.load_measure() is measure_ranks
    with one_thread():
        found = measure_ranks(ranks, paths.store)
    assert 0 < found.needed_bytes < found.total_bytes and found.device == "cpu (1 threads)"
    with pytest.raises(Exception, match="matches no layer"), one_thread():
        largest = ranks[-1].config
        wrong = replace(ranks[-1], config=replace(largest, lora=replace(largest.lora, rank=99, targets="none_such")))
        measure_ranks([*ranks, wrong], paths.store)


@pytest.mark.slow
def test_a_run_on_one_logical_gpu_shares_it_and_notes_what_a_rank_took(
    mini_experiment: Experiment, tmp_path: Path
) -> None:
    paths, options = RunPaths(tmp_path / "run"), ClusterOptions(num_cpus=2, num_gpus=1)
    assert run(mini_experiment, paths, options=options, progress=Quiet(), until="lora") == []
    (note,) = [r["note"] for r in read_rows(paths.table("notes"), "notes") if "GiB" in r["note"]]
    assert note.startswith("lora: 2 share a GPU: one takes ")
    trials = [a for a in AttemptLog(paths.attempts).attempts if a.stage in ("lora", "judge")]
    assert [a.provenance["gpu_ids"] for a in trials] == ["0"] * 3
