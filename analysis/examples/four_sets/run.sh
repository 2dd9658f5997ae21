#!/usr/bin/env bash
# Make the sweeps in this folder, from images to reports. Started again after a stop, it continues.
#
#     analysis/examples/four_sets/run.sh [JOBS] [NAME ...]
#
# Run it in a folder that contains flowers5/, blood8.npz and pneumoniamnist.npz (README.md beside this script). JOBS
# processes (2) share the cells. NAME is that of a sweep here, such as blood8; without one, all are made.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
jobs=${1:-2}
shift || true
names=("$@")
if [ $# -eq 0 ]; then names=(digits_flowers5 blood8 pneumoniamnist features robust full_strength rules); fi
report() { # FOLDER ANALYSIS SWEEP...: analyse sweeps, and keep the report in FOLDER
    python -m analysis collect "${@:3}" --out "$2"
    python -m analysis report "$2"
    mkdir -p "$1"
    cp -r "$2/." "$1"
}
main=()
for name in "${names[@]}"; do
    "$here/../sweep/jobs.sh" "$jobs" "$here/$name.yaml"
    case $name in
        digits_flowers5 | blood8 | pneumoniamnist) main+=("runs/four_sets/$name") ;;
        *) report "$here/$name" "runs/four_sets/${name}_analysis" "runs/four_sets/$name" ;;
    esac
done
if [ ${#main[@]} -gt 0 ]; then report "$here" runs/four_sets/analysis "${main[@]}"; fi
