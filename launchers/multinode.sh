#!/usr/bin/env bash
# One machine's part of a run on several. Start it on each, in the repository's top folder:
#
#     MACHINES=2 MACHINE_RANK=0 MAIN_HOST=node1 RANKS_PER_MACHINE=4 ENGINE=fsdp2 \
#         launchers/multinode.sh train --preset pets batch.effective=1024
#
# MACHINES           how many machines there are
# MACHINE_RANK       which of them this is, from 0; if not set, what srun or jsrun says
# MAIN_HOST          name or address of machine 0, as the others reach it
# MAIN_PORT          a free port of machine 0 (29500)
# RANKS_PER_MACHINE  how many ranks each starts: one for each GPU, or as the cores allow
# ENGINE             a file of launchers/accelerate (ddp)
#
# All but MACHINE_RANK are the same on all machines. So are the program, the data (data.root) and the
# run's folder (output): keep them on a shared file system. If the machines do not find each other,
# name their network: NCCL_SOCKET_IFNAME=ib0 with GPUs, GLOO_SOCKET_IFNAME=ib0 without.
# --dry-run before the command prints what would be run. Exit codes: launchers/README.md.
set -euo pipefail
if [[ ! -f launchers/common.sh ]]; then
    echo "error: start this in the repository's top folder" >&2
    exit 2
fi
source launchers/common.sh

MACHINE_RANK=${MACHINE_RANK:-${SLURM_NODEID:-${JSM_NAMESPACE_RANK:-${OMPI_COMM_WORLD_RANK:-}}}}
MAIN_HOST=${MAIN_HOST:-} MAIN_PORT=${MAIN_PORT:-29500}
config=launchers/accelerate/${ENGINE:=ddp}.yaml

need_number MACHINES 1 100000 "how many machines there are"
need_number MACHINE_RANK 0 $((MACHINES - 1)) "which of the machines this is"
need_number RANKS_PER_MACHINE 1 1000 "how many ranks each machine starts"
need_number MAIN_PORT 1 65535 "a free port of machine 0"
need MAIN_HOST "name or address of machine 0"
ranks=$((MACHINES * RANKS_PER_MACHINE))
[[ -f $config ]] || fail "ENGINE=$ENGINE: there is no $config"
[[ $ENGINE != single || $ranks == 1 ]] || fail "ENGINE=single is one rank, not $ranks"
[[ -n ${1:-} ]] || fail "expected what to run, such as: train --preset pets"

command=(
    python -m bigbatch_ue.launch --config_file "$config" --num_processes "$ranks"
    --num_machines "$MACHINES" --machine_rank "$MACHINE_RANK"
    --main_process_ip "$MAIN_HOST" --main_process_port "$MAIN_PORT"
    -m bigbatch_ue "$@"
)
if [[ -n $dry_run ]]; then
    show "${command[@]}"
else
    exec "${command[@]}"
fi
