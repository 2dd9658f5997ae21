#!/usr/bin/env bash
# Start the ranks of one machine of a run on several machines. Start this script on each machine, in
# the top folder of the repository:
#
#     MACHINES=2 MACHINE_RANK=0 MAIN_HOST=node1 RANKS_PER_MACHINE=4 ENGINE=fsdp2 \
#         launchers/multinode.sh train --preset pets batch.effective=1024
#
# MACHINES           number of machines
# MACHINE_RANK       index of this machine, from 0; default: as srun, jsrun or Open MPI report it
# MAIN_HOST          name or address of machine 0, as the others reach it
# MAIN_PORT          a free port of machine 0; default: 29500
# RANKS_PER_MACHINE  number of ranks on each machine: one per GPU, or as many as the cores allow
# ENGINE             name of a file in launchers/accelerate/; default: ddp
#
# All variables but MACHINE_RANK are the same on all machines. So are the program, the data (data.root)
# and the run folder (output): keep them on a shared file system. If the machines do not find each
# other, name their network interface: NCCL_SOCKET_IFNAME=ib0 with GPUs, GLOO_SOCKET_IFNAME=ib0
# without. --dry-run before the command prints the command and starts nothing. docs/launching.md
# explains the exit codes.
set -euo pipefail
if [[ ! -f launchers/common.sh ]]; then
    echo "error: start this script in the top folder of the repository" >&2
    exit 2
fi
source launchers/common.sh

MACHINE_RANK=${MACHINE_RANK:-${SLURM_NODEID:-${JSM_NAMESPACE_RANK:-${OMPI_COMM_WORLD_RANK:-}}}}
MAIN_HOST=${MAIN_HOST:-} MAIN_PORT=${MAIN_PORT:-29500}
config=launchers/accelerate/${ENGINE:=ddp}.yaml

need_number MACHINES 1 100000 "the number of machines"
need_number MACHINE_RANK 0 $((MACHINES - 1)) "the index of this machine"
need_number RANKS_PER_MACHINE 1 1000 "the number of ranks on each machine"
need_number MAIN_PORT 1 65535 "a free port of machine 0"
need MAIN_HOST "the name or address of machine 0"
ranks=$((MACHINES * RANKS_PER_MACHINE))
[[ -f $config ]] || fail "ENGINE=$ENGINE: $config does not exist; name a file of launchers/accelerate"
[[ $ENGINE != single || $ranks == 1 ]] || fail "ENGINE=single: starts one rank, not $ranks; use ddp"
[[ -n ${1:-} ]] || fail "expected a command, such as: train --preset pets"

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
