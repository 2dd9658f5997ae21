#!/usr/bin/env bash
# Make the sweeps in this folder, from images to report. Started again after a stop, it continues.
#
#     analysis/examples/four_sets/run.sh [JOBS] [NAME ...]
#
# Run it in a folder that contains flowers5/, blood8.npz and pneumoniamnist.npz (README.md beside this script). JOBS
# processes (2) share the cells. NAME is that of a sweep here, such as blood8; without one, all are made.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
jobs=${1:-2}
shift || true
files=("$here"/*.yaml)
if [ $# -gt 0 ]; then files=("${@/#/$here/}") && files=("${files[@]/%/.yaml}"); fi
for file in "${files[@]}"; do "$here/../sweep/jobs.sh" "$jobs" "$file"; done
python -m analysis collect runs/four_sets/*/ --out runs/four_sets/analysis
python -m analysis report runs/four_sets/analysis
cp -r runs/four_sets/analysis/. "$here"
