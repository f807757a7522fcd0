#!/usr/bin/env bash
# The built-in base model from nothing: a synthetic corpus, five networks, one model directory. Stopped and started again it goes on.
#   recipes/nano.sh [WORK_FOLDER]      default ./build/nano-work; two cores need about four hours
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-build/nano-work}

for tool in flite espeak-ng; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: run  apt-get install -y flite espeak-ng fortunes"; exit 1; }
done
.venv/bin/cosyforge pretrain --work "$work" --out "$work/nano"
echo "The model is in $work/nano; copy it over src/cosyforge/assets/nano to make it the built-in one."
