#!/bin/bash
# Run in a test on one node, with a stand-in for srun (tests/deploy/test_slurm.py); not yet on a Slurm cluster.
#
#   sbatch deploy/slurm.sh paper --spanish DIR --african DIR --out /shared/runs/paper
#
# from the checkout, which every node must see with its .venv, as it must see --out. Out of time, preempted or killed, the
# same command goes on where it was. Ray's `symmetric-run` starts a node of the cluster in every task, the command in one.
#SBATCH --job-name=fulora
#SBATCH --nodes=2              # CHANGE
#SBATCH --gpus-per-node=1      # CHANGE
#SBATCH --cpus-per-task=8      # CHANGE: all cores that belong to a node's GPUs
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$head:$((10000 + SLURM_JOB_ID % 20000))"  # jobs that share a node do not share a port
# Nobody else's Ray: a token of this job, and a folder of its own on each node's disk (short: sockets lie in it).
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(16))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

outcome=0
srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" \
    --include-dashboard=false -- sweeps run "$@" --address "$address" || outcome=$?
srun rm -rf "$RAY_TMPDIR" || true
exit "$outcome"
