#!/usr/bin/env bash
# Make the recordings of the demo speaker again, from the texts in src/cosyforge/assets/demo/{train,heldout}.jsonl.
#
#   recipes/demo_speaker.sh [FOLDER]
#
# The speaker is the flite voice "rms" (Debian package flite, 2.2). With the same flite and the same libsndfile the files come out
# byte for byte; without a folder the ones in the repository are replaced.
# Needs: flite, and a Python with soundfile (PYTHON, default .venv/bin/python).
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
texts=$repository/src/cosyforge/assets/demo
folder=${1:-$texts}
python=${PYTHON:-$repository/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v flite >/dev/null || { echo "flite is missing; install it with: apt-get install flite" >&2; exit 1; }
flite -lv | grep -qw rms || { echo "this flite has no voice rms; Debian's flite 2.2 has it" >&2; exit 1; }

# one line per recording: name TAB text
"$python" - "$texts" >"$work/list" <<'PYTHON'
import json, pathlib, sys
for name in ("train.jsonl", "heldout.jsonl"):
    for line in pathlib.Path(sys.argv[1], name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        print(row["flac"], row["text"], sep="\t")
PYTHON

while IFS=$'\t' read -r name text; do
    mkdir -p "$work/$(dirname "$name")"
    flite -voice rms -t "$text" -o "$work/${name%.flac}.wav" </dev/null
done <"$work/list"

# the voice's own 16 kHz stay; the platform takes 16 kHz and more
"$python" - "$work" "$folder" <<'PYTHON'
import pathlib, sys
import soundfile
work, folder = map(pathlib.Path, sys.argv[1:])
for wav in sorted(work.rglob("*.wav")):
    samples, sample_rate_hz = soundfile.read(wav, dtype="int16")
    flac = folder / wav.relative_to(work).with_suffix(".flac")
    flac.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(flac, samples, sample_rate_hz, format="FLAC", subtype="PCM_16")
PYTHON

echo "$(wc -l <"$work/list") recordings in $folder"
