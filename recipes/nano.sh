#!/usr/bin/env bash
# The built-in base model from nothing: a synthetic corpus, five networks, one model directory. Stopped and started again it goes on.
#
#   recipes/nano.sh [WORK_FOLDER] [OPTION...]      default ./build/nano-work
#
# Options are those of `cosyforge pretrain`:
#   --quick               a small corpus and few steps: a quarter of an hour on two cores, to see that everything works
#   --extra-corpus DIR    recordings of your own beside the synthetic ones (docs/pretraining.md)
#   --device cpu          where to train; default is a GPU where torch finds one
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/nano-work
if [[ $# -gt 0 && $1 != -* ]]; then
    work=$1
    shift
fi

for tool in flite espeak-ng; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: run  apt-get install -y flite espeak-ng fortunes"; exit 1; }
done
.venv/bin/cosyforge pretrain --work "$work" --out "$work/nano" "$@"
echo "The model is in $work/nano; copy it over src/cosyforge/assets/nano to make it the built-in one."
