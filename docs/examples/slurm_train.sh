#!/bin/bash
# Trains under Slurm until the training has ended, however often the job is pre-empted or its time runs out:
#   sbatch docs/examples/slurm_train.sh SCANS --labeled 8 --method mean_teacher_copy_paste
# Each start goes on from the last checkpoint; what follows the script's name is given to `dualseg train`.
#SBATCH --job-name=dualseg
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

# Slurm tells this shell, too, when it takes the machine back: it waits for the training to save instead of ending.
trap 'echo "The machine is taken back: waiting for the checkpoint"' TERM

srun dualseg train "$@"
code=$?

# 143: the training was asked to end, has saved, and wants to go on. Anything else is an end: 0 done, 1 an error.
# A pre-empted job is put back into the queue by Slurm itself; one whose time runs out, or that was cancelled, is not.
if [ "$code" -eq 143 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
