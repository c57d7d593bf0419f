"""Tables of a run itself: trials, attempts at every step, stages, notes."""

from __future__ import annotations

from sweeps.core.schemas.column import SECONDS, Column, Table, boolean, integer, number, string

_STARTED_AT = string("When the attempt began, ISO 8601, UTC")
_PEAK_MEMORY = integer(
    "Peak memory of the attempt: allocated by PyTorch on CUDA, else the peak resident memory of the process so far",
    "bytes",
)
_DEVICE = string("Device that ran it: name of the GPU, or the CPU with its number of threads")
_GPUS = number("GPUs, or the share of one, that the attempt held; null where it never began", "GPUs")
_ENERGY = number("Energy of its GPU meanwhile; null where the device does not tell, or was shared", "J")
_STATUS = string(
    "`SUCCEEDED`, `FAILED`, `PRUNED` (stopped early by ASHA), `CANCELLED` (interrupted) or "
    "`BLOCKED` (a step it needs failed)"
)
_ERROR_TYPE = string("Class of the exception; null unless failed")
_ERROR_MESSAGE = string("Message of the exception and where it was raised; null unless failed")

TRIAL_COLUMNS: dict[str, Column] = {
    "trial_id": string("Id of the trial: a hash of its configuration and inputs, the same wherever it runs"),
    "stage": string("Kind of trial: `judge`, `lora`, `search` or `grid`"),
    "label": string("Name of the trial for people, such as `rank 128`"),
    "attempt": integer("Number of the attempt at this trial, from 1"),
    "status": _STATUS,
    "started_at": _STARTED_AT,
    "seconds": number("Wall time of the attempt", SECONDS),
    "peak_memory_bytes": _PEAK_MEMORY,
    "device": _DEVICE,
    "gpus": _GPUS,
    "energy_joules": _ENERGY,
    "error_type": _ERROR_TYPE,
    "error_message": _ERROR_MESSAGE,
}
"""Fixed columns of trials.parquet; the columns of TRIAL_PREFIXES follow them."""

TRIAL_PREFIXES: dict[str, str] = {
    "config_": "Value of the trial's configuration",
    "metric_": "Result of the trial",
    "provenance_": "Origin of the result: commit, host, node, GPUs, package versions, or the hash of an input",
}
"""What the other columns of trials.parquet mean, by the prefix of their names: their number depends on the run."""

TRIALS = Table(
    name="trials",
    about="One row per attempt at a trial: a training of the judge, of an adapter or of a classifier.",
    columns=TRIAL_COLUMNS,
    notes="""\
The columns `config_*`, `metric_*` and `provenance_*` follow, as many as the run has: configuration values, results, and
environment with the hashes of what was read. A type is that of the values.""",
)

STEPS = Table(
    name="steps",
    about="One row per attempt at any step of the run: trials, shards of images, selections, scores, figures.",
    columns={
        "kind": string("Kind of step, such as `judge`, `lora`, `images` or `grid`"),
        "stage": string("Stage the step belongs to: `sources`, `lora`, `sample`, `grid` or `report`"),
        "label": string("Name of the step for people, such as `rank 128`"),
        "key": string("Hash of kind, code version, configuration and needed steps; the `trial_id` of a trial"),
        "attempt": integer("Number of the attempt at this step, from 1"),
        "status": _STATUS,
        "started_at": _STARTED_AT,
        "seconds": number("Wall time of the attempt", SECONDS),
        "device": _DEVICE,
        "node": string("End of the id of the Ray node that ran it; null without Ray"),
        "gpu_ids": string("GPUs of that node that Ray assigned, separated by commas; null without GPUs"),
        "peak_memory_bytes": _PEAK_MEMORY,
        "gpus": _GPUS,
        "energy_joules": _ENERGY,
        "error_type": _ERROR_TYPE,
        "error_message": _ERROR_MESSAGE,
        "reused": boolean("Whether the result is of an earlier call and was not computed again"),
    },
)

STAGES = Table(
    name="stages",
    about="One row per stage of the run, counted over its steps.",
    columns={
        "stage": string("`sources`, `lora`, `sample`, `grid` or `report`"),
        "seconds": number("Time in which at least one step of the stage ran; stages overlap", SECONDS),
        "num_done": integer("Steps done by the last call"),
        "num_reused": integer("Steps done by earlier calls and reused"),
        "num_failed": integer("Steps that the last call could not do"),
        "where": string("Where the stage ran: the driver, or the nodes, cores and GPUs of the cluster"),
        "started_at": string("When the stage began, ISO 8601, UTC"),
    },
)

NOTES = Table(
    name="notes",
    about="One row per note: too few images, fallbacks, and everything else a reader of the tables must know.",
    columns={
        "stage": string("Stage that the note is of"),
        "note": string("The note, a sentence"),
    },
)

COST = Table(
    name="cost",
    about="One row per stage of the run and one for `all`: what the attempts of every call used, failed ones too.",
    columns={
        "stage": string("`sources`, `lora`, `sample`, `grid`, `report`, or `all` for the whole run"),
        "num_steps": integer("Steps that began", "steps"),
        "num_attempts": integer("Attempts that began", "attempts"),
        "num_retries": integer("Attempts beyond the first at a step", "attempts"),
        "attempt_seconds": number("Wall time of the attempts, added up", SECONDS),
        "gpu_hours": number("Hours times GPUs, or the share of one, that the attempts held; 0 on CPUs", "GPU-hours"),
        "idle_share": number(
            "Share of the GPUs (without any: of the steps that could run at once) that no step held while one of the "
            "stage ran; by the number there was in the last call that did work"
        ),
        "peak_memory_bytes": integer("Largest peak memory of an attempt, as in `steps`", "bytes"),
        "energy_joules": number("Energy of the GPUs; null where one did not tell or was shared", "J"),
        "slots": number("GPUs, or without any the steps that could run at once, in the last call that did work"),
        "price": number("Price of a GPU-hour, as given with the run; null where none was"),
        "money": number("GPU-hours times their price, in its currency"),
    },
)

TABLES = (TRIALS, STEPS, STAGES, COST, NOTES)
