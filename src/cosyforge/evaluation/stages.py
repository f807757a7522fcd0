"""A recording carried through ever more of a model, so that it shows where what is lost is lost.

source       the recording itself: what the recogniser makes of a real clip
griffin_lim  its mel back to sound with no network at all: what a vocoder should at least reach
vocoder      its mel through the model's vocoder
copy         its speech tokens through flow and vocoder, in the speaker's own voice
clone        its text spoken by the whole model, in a voice made of a few seconds of the speaker
synthesis    its text spoken by the whole model, in the voice that is judged
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosyforge.audio.resample import resample
from cosyforge.cosyvoice.manifest import FileEntry, Manifest, base_entry, write_manifest
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.weights import voice_entries, write_voices
from cosyforge.dataset.features import FeatureExtractor, Features
from cosyforge.evaluation.griffin_lim import griffin_lim
from cosyforge.evaluation.scorecard import Recording
from cosyforge.training.flow_stage import mean_speaker_embedding
from cosyforge.training.voice import PromptFigures, choose_prompt, measure_prompt, prompt_candidates

Samples = npt.NDArray[np.float32]

STAGES = ("source", "griffin_lim", "vocoder", "copy", "clone", "synthesis")
COPY_STAGES = ("source", "griffin_lim", "vocoder", "copy")

CLONE_PROMPT_S = 8.0
"""No more of a speaker is taken for a clone."""
CLONE_VOICE = "clone"

_TOKENS_PER_S = 25
_MOST_PROMPTS = 6


class Copy(NamedTuple):
    """Samples (L,) of one recording at one stage, and their rate in Hz."""

    stage: str
    samples: Samples
    sample_rate_hz: int


class Copier:
    """Carries one speaker's recordings through a model's tokenizer, flow and vocoder."""

    def __init__(self, model: CosyVoice, recordings: Sequence[Recording]) -> None:
        """Raises: ValueError without recordings; InvalidParameter when one cannot be used (too short, rate too low)"""
        if not recordings:
            raise ValueError("no recordings to carry through the model; give at least one")
        self._model = model
        self._recordings = recordings
        self._features = FeatureExtractor(model).extract_batch([clip[:2] for clip in recordings])
        self._speaker_embedding = mean_speaker_embedding([each.speaker_embedding for each in self._features])
        self._prompts = self._ranked_prompts()
        self._clone_clips = self._prompts_that_fit()

    def copies(self, index: int, stages: Sequence[str] = COPY_STAGES) -> Iterator[Copy]:
        """Give one recording at each of the stages asked for."""
        clip, features = self._recordings[index], self._features[index]
        rate_hz = self._model.config.hift.sample_rate_hz
        for stage in stages:
            if stage == "source":
                yield Copy(stage, clip.samples, clip.sample_rate_hz)
            elif stage == "griffin_lim":
                yield Copy(stage, griffin_lim(features.mel), rate_hz)
            elif stage == "vocoder":
                yield Copy(stage, self._spoken(features.mel[None]), rate_hz)
            elif stage == "copy":
                yield Copy(stage, self._spoken(self._mel(index)), rate_hz)
            else:
                raise ValueError(f"stage {stage!r} is no copy of a recording; those are {', '.join(COPY_STAGES)}")

    @property
    def clone_clips(self) -> list[int]:
        """Which recordings a clone is made of: the best prompt and what else fits into eight seconds."""
        return self._clone_clips

    def cloned_voice(self) -> Voice:
        """A voice as it is made in context, from at most eight seconds of the speaker and their words."""
        clips = [self._recordings[index] for index in self._clone_clips]
        rate_hz = max(clip.sample_rate_hz for clip in clips)
        samples = np.concatenate([resample(clip.samples, clip.sample_rate_hz, rate_hz) for clip in clips])
        most = round(CLONE_PROMPT_S * rate_hz)
        features = FeatureExtractor(self._model).extract(samples[:most], rate_hz)
        # words beyond a cut are not in the prompt, and where they begin nobody knows
        is_told = len(samples) <= most and all(clip.text for clip in clips)
        takes_text = is_told and self._model.manifest.training.get("lm_prompt", True)
        text = " ".join(clip.text for clip in clips) if takes_text else None
        return Voice(features.speaker_embedding, text, features.speech_token.long(), features.mel)

    def _mel(self, index: int) -> Tensor:
        """The mel that the flow makes of the clip's tokens, with another clip as its prompt where there is one."""
        prompt = self._prompt_for(index)
        tokens = self._features[index].speech_token.long()[None]
        with torch.inference_mode():
            return self._model.flow.sample(
                tokens,
                None if prompt is None else prompt.speech_token.long()[None],
                None if prompt is None else prompt.mel[None],
                self._speaker_embedding[None],
            )

    def _prompt_for(self, index: int) -> Features | None:
        other = next((prompt for prompt in self._prompts if prompt != index), None)
        if other is None:
            return None
        features, most = self._features[other], round(CLONE_PROMPT_S * _TOKENS_PER_S)
        return Features(features.speech_token[:most], features.mel[:, : 2 * most], features.speaker_embedding)

    def _spoken(self, mel: Tensor) -> Samples:
        with torch.inference_mode():
            return np.ascontiguousarray(self._model.hift(mel)[0].float().cpu().numpy())

    def _ranked_prompts(self) -> list[int]:
        """The clips from the one that tuning would take as the voice's prompt downwards, as many as a clone may need."""
        left = prompt_candidates([_duration_s(clip) for clip in self._recordings])
        if len(left) < _MOST_PROMPTS:
            left += [index for index in range(len(self._recordings)) if index not in left]
        figures = {index: self._prompt_figures(index) for index in left}
        ranked: list[int] = []
        while left and len(ranked) < _MOST_PROMPTS:
            ranked.append(left.pop(choose_prompt([figures[index] for index in left])))
        return ranked

    def _prompts_that_fit(self) -> list[int]:
        chosen, total_s = self._prompts[:1], _duration_s(self._recordings[self._prompts[0]])
        for index in self._prompts[1:]:
            duration_s = _duration_s(self._recordings[index])
            if total_s + duration_s <= CLONE_PROMPT_S:
                chosen, total_s = [*chosen, index], total_s + duration_s
        return chosen

    def _prompt_figures(self, index: int) -> PromptFigures:
        clip = self._recordings[index]
        likeness = torch.nn.functional.cosine_similarity(
            self._features[index].speaker_embedding, self._speaker_embedding, dim=0
        )
        return measure_prompt(clip.samples, clip.sample_rate_hz, clip.text, float(likeness))


def _duration_s(clip: Recording) -> float:
    return len(clip.samples) / clip.sample_rate_hz


def prompt_recording(voice: Voice, sample_rate_hz: int) -> Recording | None:
    """The prompt of a voice made audible with no network: the nearest thing to its speaker that a model carries.

    None when the voice has no prompt
    """
    return None if voice.prompt_mel is None else Recording(griffin_lim(voice.prompt_mel), sample_rate_hz)


def write_voice_directory(voice: Voice, base_directory: Path, directory: Path) -> Path:
    """Write a model directory that adds one voice, named `clone`, to a model; nothing else differs from it."""
    directory.mkdir(parents=True, exist_ok=True)
    voices = {CLONE_VOICE: voice}
    digest = write_voices(directory / "voices.safetensors", voices)
    manifest = Manifest(
        CLONE_VOICE,
        base=base_entry(base_directory),
        files={"voices": FileEntry("voices.safetensors", digest)},
        voices=voice_entries(voices),
    )
    write_manifest(directory, manifest)
    return directory
