#!/usr/bin/env bash
{% if job.shared %}
#BSUB -J "bigbatch-ue-{{ job.command[0] }}[1-{{ job.nodes }}]{{ "%%%d" % job.at_most if job.at_most else "" }}"
#BSUB -nnodes 1
#BSUB -o bigbatch-ue.%J.%I.out
{% else %}
#BSUB -J bigbatch-ue-{{ job.command[0] }}
#BSUB -nnodes {{ job.nodes }}
#BSUB -o bigbatch-ue.%J.out
{% endif %}
#BSUB -W {{ time }}
# The command stops by its own clock, without a loss, and ends with 75. LSF then puts the job back into
# the queue, where it continues. LSF's own signal is a second safety net: whether it reaches the nodes
# depends on jsrun.
#BSUB -Q 75
#BSUB -wa USR1
#BSUB -wt 2
{% for option in job.options %}
#BSUB {{ option }}
{% endfor %}
{% include "prepare.sh" %}

# One resource set per node, with all its GPUs and one task, which starts the ranks of the node.
{% if job.shared %}
pass_signals jsrun -n 1 -r 1 -a 1 -g {{ job.gpus }} -c {{ job.cores }} -b rs \
    timeout --preserve-status --signal=USR1 {{ until }}m \
    {{ program }} {{ command }} --shard "$LSB_JOBINDEX/{{ job.nodes }}"
{% else %}
# The file has one line per slot. The node that runs this script comes first and has no GPU.
mapfile -t hosts < <(grep -vE '^(batch|login)' "$LSB_DJOB_HOSTFILE" | uniq)
port=$((20000 + LSB_JOBID % 10000)) # jobs on the same node need different ports
pass_signals jsrun -n {{ job.nodes }} -r 1 -a 1 -g {{ job.gpus }} -c {{ job.cores }} -b rs \
    {{ launch }} --machines {{ job.nodes }} \
    --main-host "${hosts[0]}" --main-port "$port" -- {{ command }}{{ " --resume --time-limit %d" % until if job.command[0] == "train" }}
{% endif %}
