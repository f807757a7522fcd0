"""Put the best weights so far into a model directory: networks, tokenizer, preset voices, manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cosyforge.cosyvoice.config import NANO
from cosyforge.cosyvoice.flow import Flow
from cosyforge.cosyvoice.hift import HiFT
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.manifest import FrontendEntry, Manifest, VoiceEntry
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import save_model
from cosyforge.training.pretrain.flow_stage import PRIOR_WEIGHT, TIME_POWER, speaker_means
from cosyforge.training.pretrain.steps import load_averaged

if TYPE_CHECKING:
    from cosyforge.training.pretrain.run import Workshop

PREFIX = "<|endofprompt|>"

PRESETS = {
    "duncan": ("awb-1.00", "m", "a lively man's voice, Scottish English", "longanyang loongeric_v3 loongluca_v3"),
    "lena": ("slt-1.00", "f", "a clear woman's voice, American English", "longanhuan loongabby_v3 loongava_v3"),
    "karl": ("kal16-0-1.00", "m", "a deep, even man's voice, American English", "loongandy_v3 loongdavid_v3"),
    "mina": ("slt-1.14", "f", "a light, young woman's voice, American English", "longhuhu_v3 loongcally_v3"),
    "vera": ("slt-0.86", "f", "a low woman's voice, American English", "loongannie_v3 loongbeth_v3"),
    "robin": ("awb-1.26", "m", "a bright, youthful voice, Scottish English", "longjielidou_v3"),
}
"""Preset name -> the virtual speaker it stands for, gender, description, and the service's presets that it answers for."""


def assemble(workshop: Workshop, out: Path) -> Manifest:
    """Write the model directory, 16-bit. Raises: FileNotFoundError naming the stage that is missing."""
    clips = workshop.clips()
    lm, flow, hift = SpeechLM(NANO.lm), Flow(NANO.flow), HiFT(NANO.hift)
    steps = {
        stage: load_averaged(workshop.checkpoint(stage), {name: network})
        for stage, name, network in (("lm", "lm", lm), ("flow", "flow", flow), ("vocoder", "hift", hift))
    }
    networks: Mapping[str, nn.Module] = {
        "lm": lm,
        "flow": flow,
        "hift": hift,
        "speech_tokenizer": workshop.speech_tokenizer(),
        "speaker_encoder": workshop.speaker_encoder(clips),
    }
    voices = _preset_voices(workshop, clips)
    manifest = Manifest(
        name="nano",
        preset="nano",
        networks=NANO,
        sampling=NANO.sampling,
        frontend=FrontendEntry(languages=("en",), english="phones", prefix=PREFIX),
        voices={
            name: VoiceEntry(text, gender, "en", aliases=tuple(aliases.split()))
            for name, (_, gender, text, aliases) in PRESETS.items()
            if name in voices
        },
        training={
            "recipe": "cosyforge pretrain",
            "corpus": f"{workshop.num_clips} clips by flite (slt, awb, kal16) and espeak-ng; flite rms never heard",
            "steps": steps,
            "seed": workshop.seed,
            # what fine-tuning goes on with
            "lm_prompt": False,
            "flow_loss": {"prior_weight": PRIOR_WEIGHT, "t_power": TIME_POWER},
        },
        licence="Apache-2.0",
    )
    model = CosyVoice(
        networks={name: network.eval() for name, network in networks.items()},
        text_tokenizer=TextTokenizer.byte_level(),
        manifest=manifest,
        voices=voices,
        sampling=NANO.sampling,
        config=NANO,
        frontend=manifest.frontend or FrontendEntry(),
    )
    return save_model(model, out, storage=torch.bfloat16)


def _preset_voices(workshop: Workshop, clips: list[Any]) -> dict[str, Voice]:
    vectors: Tensor = workshop.vectors(clips)
    means = speaker_means(clips, vectors)
    codes = workshop.codes(clips)
    voices = {}
    for name, (speaker, *_) in PRESETS.items():
        if speaker not in means:
            workshop.on_log(f"voice {name} is left out: this corpus holds no clip of {speaker}")
            continue
        index = _prompt_clip([c.clip.speaker == speaker for c in clips], [len(code) for code in codes])
        code = codes[index]
        voices[name] = Voice(
            speaker_embedding=means[speaker],
            # no transcript: this LM reads better without a prompt (docs/nano-model-card.md); the flow hears it
            prompt_text=None,
            prompt_token=code,
            prompt_mel=clips[index].mel[: 2 * len(code)].float().T.contiguous(),
        )
    return voices


def _prompt_clip(is_speaker: list[bool], num_tokens: list[int], wanted: int = 75) -> int:
    """The clip of the speaker whose length is nearest to three seconds."""
    candidates = [i for i, mine in enumerate(is_speaker) if mine]
    return min(candidates, key=lambda i: abs(num_tokens[i] - wanted))
