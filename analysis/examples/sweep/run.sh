#!/usr/bin/env bash
# Make the sweep in this folder, from images to report. Started again after a stop, it continues.
#
#     analysis/examples/sweep/run.sh [JOBS]
#
# Run it in the folder that contains blood8.npz (see README.md beside this script). JOBS processes share the
# cells.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
jobs=${1:-2}
"$here/jobs.sh" "$jobs" "$here/sweep.yaml"
python -m analysis collect runs/sweep
python -m analysis report runs/sweep/analysis
cp -r runs/sweep/analysis/. "$here"
