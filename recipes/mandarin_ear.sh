#!/usr/bin/env bash
# The Mandarin recogniser of `cosyforge evaluate` from nothing: its own corpus, network, figures. Stopped and started again it goes on.
#   recipes/mandarin_ear.sh [WORK_FOLDER]      default ./build/mandarin-ear; one core needs about ten minutes
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-build/mandarin-ear}

command -v espeak-ng >/dev/null || { echo "espeak-ng is missing: run  apt-get install -y espeak-ng"; exit 1; }
OMP_NUM_THREADS=1 .venv/bin/python -m cosyforge.evaluation.mandarin_ear.training --work "$work" --out "$work/mandarin_ear"
echo "The recogniser is in $work/mandarin_ear; copy it over src/cosyforge/assets/mandarin_ear to make it the built-in one."
