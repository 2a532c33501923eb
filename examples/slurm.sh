#!/bin/bash
# Trains one model on all GPUs of several machines, and has itself queued again until that is done:
#
#     sbatch examples/slurm.sh runs/mine --data mnist --data-dir /shared/mnist --epochs 500 --save-every 500
#
# The first argument is the folder of the run, on a file system that all machines see; the others are those of
# pyro-vae train. The same line starts the run and goes on with it, on the same number of machines or another.
#
#SBATCH --job-name=pyro-vae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

run=$1
shift
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-2}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:${PORT:-29500}" \
    -m pyro_vae train --folder "$run" --resume auto "$@" &
training=$!

# Five minutes before its time is over, this script is sent USR1. Of TERM, which torchrun passes on, all
# processes finish the step and save.
trap 'kill -TERM $training' USR1 TERM
wait $training
code=$?
while kill -0 $training 2>/dev/null; do # the first wait ends when the signal comes
    wait $training
    code=$?
done

# Whatever stopped it in time, this signal or --max-minutes, says so in the last line of the run's log. A run
# that is done, or that failed, is not queued again.
if tail -n 1 "$run/log.txt" | grep -q " Interrupted: "; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit $code
