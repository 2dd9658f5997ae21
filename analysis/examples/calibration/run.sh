#!/usr/bin/env bash
# Simulate sweeps whose truth is known, analyse them, and write the tables of this folder.
#
#     analysis/examples/calibration/run.sh [--replications 200] [--workers 2]
#
# Started again after a stop, it continues; remove cases.csv to begin anew.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
python -m tests.analysis.calibration "$here" "$@"
