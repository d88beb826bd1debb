#!/bin/bash
# One evaluation as a Slurm job of its own, for the setting evaluate_command; several at once with --evaluators:
#
#   rna-watch start RUN_DIR --evaluators 4 --evaluation-timeout 3600 \
#       --evaluate-command "$PWD/deploy/slurm-evaluate.sh --gpus=1 --time=30 -- python $PWD/evaluate.py {checkpoint}"
#
# What stands before -- is for sbatch, what follows is the command: it prints its metrics as JSON, as the last thing. This
# script waits for the job, prints what the job printed, and ends as it did. Variables:
#
#   RNA_WATCH_SHARED   a folder that all nodes see, for the job's output; the current one if not set

set -u
options=()
while (($#)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
done
if (($# < 2)); then
    echo "usage: slurm-evaluate.sh [OPTIONS OF SBATCH] -- COMMAND {checkpoint}" >&2
    exit 2
fi
shift
said=$(mktemp "${RNA_WATCH_SHARED:-$PWD}/rna-watch-evaluation-XXXXXX") || exit 1
trap 'rm -f "$said"' EXIT
printf -v command '%q ' "$@"
sbatch --wait --quiet --job-name=rna-watch-evaluation --output="$said" "${options[@]}" --wrap "exec $command" >&2
status=$?
cat "$said"
exit "$status"
