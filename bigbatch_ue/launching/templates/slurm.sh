#!/usr/bin/env bash
#SBATCH --job-name=bigbatch-ue-{{ job.command[0] }}
{% if job.shared %}
#SBATCH --array=1-{{ job.nodes }}{{ "%%%d" % job.at_most if job.at_most else "" }}
#SBATCH --nodes=1
{% else %}
#SBATCH --nodes={{ job.nodes }}
{% endif %}
#SBATCH --ntasks-per-node=1
{% if job.gpus %}
#SBATCH --gpus-per-node={{ job.gpus }}
{% endif %}
#SBATCH --cpus-per-task={{ job.cores }}
#SBATCH --time={{ time }}:00
# SIGUSR1 two minutes before the limit, and SIGTERM at pre-emption, stop the command without a loss.
# It then ends with 75, and the job goes back into the queue, where it continues.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
{% for option in job.options %}
#SBATCH {{ option }}
{% endfor %}
{% include "prepare.sh" %}

code=0
{% if job.shared %}
pass_signals {{ program }} {{ command }} --shard "$SLURM_ARRAY_TASK_ID/{{ job.nodes }}" || code=$?
{% else %}
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs on the same node need different ports
# The first node to end must not make srun kill the others, which may still be writing the checkpoint.
pass_signals srun --nodes={{ job.nodes }} --ntasks={{ job.nodes }} --ntasks-per-node=1 \
    --cpus-per-task={{ job.cores }} --kill-on-bad-exit=0 --wait=600 \
    {{ launch }} --machines {{ job.nodes }} \
    --main-host "${hosts[0]}" --main-port "$port" -- {{ command }}{{ " --resume" if job.command[0] == "train" }} || code=$?
{% endif %}
if ((code == 75)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
