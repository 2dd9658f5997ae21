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
main=()
for name in "${names[@]}"; do
    "$here/../sweep/jobs.sh" "$jobs" "$here/$name.yaml"
    case $name in
        digits_flowers5 | blood8 | pneumoniamnist) main+=("runs/four_sets/$name") ;;
        *)
            python -m analysis collect "runs/four_sets/$name" --out "runs/four_sets/${name}_analysis"
            python -m analysis report "runs/four_sets/${name}_analysis"
            mkdir -p "$here/$name"
            cp -r "runs/four_sets/${name}_analysis/." "$here/$name"
            ;;
    esac
done
if [ ${#main[@]} -gt 0 ]; then
    python -m analysis collect "${main[@]}" --out runs/four_sets/analysis
    python -m analysis report runs/four_sets/analysis
    cp -r runs/four_sets/analysis/. "$here"
fi
