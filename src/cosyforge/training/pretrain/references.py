"""What the engines themselves make of the test sentences, as the voices that the presets stand for: the mark to compare a base with."""

from __future__ import annotations

from pathlib import Path

from cosyforge.dataset.synthetic import (
    Task,
    VirtualSpeaker,
    espeak_speakers,
    flite_speakers,
    spoken_pinyin,
    write_package,
)
from cosyforge.evaluation.sentences import EVERYDAY, EVERYDAY_ZH
from cosyforge.text.mandarin import pinyin_syllables
from cosyforge.training.pretrain.assemble import PRESETS


def write_references(directory: Path) -> None:
    """DIRECTORY/VOICE in the layout of training packages, for `cosyforge evaluate --reference DIRECTORY`; what is there is kept."""
    speakers = {speaker.name: speaker for speaker in flite_speakers() + espeak_speakers()}
    for name, preset in PRESETS.items():
        if not (directory / name / "data.jsonl").exists():
            write_package(directory / name, _tasks(speakers[preset.speaker], preset.language))


def _tasks(speaker: VirtualSpeaker, language: str) -> list[Task]:
    if language == "zh":
        return [Task(speaker, text, spoken_pinyin(text, pinyin_syllables), language="zh") for text in EVERYDAY_ZH]
    return [Task(speaker, text, text) for text in EVERYDAY]
