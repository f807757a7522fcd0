"""Put the best weights so far into a model directory: networks, tokenizer, preset voices, manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cosyforge.cosyvoice.config import NANO
from cosyforge.cosyvoice.flow import Flow
from cosyforge.cosyvoice.hift import HiFT
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.manifest import Manifest, VoiceEntry
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import save_model
from cosyforge.dataset.synthetic import HELD_OUT
from cosyforge.training.pretrain.flow_stage import (
    PAIR_SHARE,
    PRIOR_FROM_BIN,
    PRIOR_WEIGHT,
    SAMPLER_SHARE,
    TIME_POWER,
    speaker_means,
)
from cosyforge.training.pretrain.lm_stage import FRONTEND
from cosyforge.training.pretrain.steps import load_averaged

if TYPE_CHECKING:
    from cosyforge.training.pretrain.run import Workshop


@dataclass(frozen=True)
class Preset:
    """A voice of the base: the virtual speaker that it stands for, how people are told of it, the service's presets it answers for."""

    speaker: str
    gender: str
    language: str
    description: str
    aliases: str = ""


PRESETS = {
    "duncan": Preset("awb-1.00", "m", "en", "a lively man's voice, Scottish English", "longanyang loongeric_v3"),
    "lena": Preset(
        "slt-0.96", "f", "en", "a clear woman's voice, American English",
        "longanhuan loongabby_v3 loongava_v3 loongcindy_v3 loongdonna_v3 longhuhu_v3 longpaopao_v3 longxian_v3 longling_v3 "
        "longshanshan_v3 loongcally_v3 loongbella_v3",
    ),
    "karl": Preset(
        "kal16-0-1.00", "m", "en", "a deep, even man's voice, American English",
        "loongandy_v3 longjiqi_v3",
    ),
    "toby": Preset(
        "kal16-160-1.00", "m", "en", "a light, even young man's voice, American English",
        "loongdavid_v3 loongluca_v3",
    ),
    "vera": Preset(
        "slt-0.86", "f", "en", "a low woman's voice, American English",
        "loongannie_v3 loongbeth_v3 loongbetty_v3 loongemily_v3 loongluna_v3",
    ),
    "robin": Preset(
        "awb-1.17", "m", "en", "a bright, youthful voice, Scottish English",
        "longjielidou_v3 longniuniu_v3 longhouge_v3",
    ),
    "mei": Preset(
        "espeak-Annie-50", "f", "zh", "a bright woman's voice, Mandarin",
        "longyingxiao_v3 longyumi_v3 longantai_v3 longhua_v3 longxing_v3 longwan_v3 longfeifei_v3 longanling_v3 "
        "longanqin_v3 longwanjun_v3 longdaiyu_v3 longxiaochun_v3 longxiaoxia_v3 longyingling_v3 longyingtao_v3 longmiao_v3 "
        "longyingmu_v3",
    ),
    "lan": Preset(
        "espeak-grandma-50", "f", "zh", "a calm, lower woman's voice, Mandarin",
        "longyingjing_v3 longanwen_v3 longanli_v3 longyan_v3 longqiang_v3 longanrou_v3 longanya_v3 longyuan_v3 longyue_v3 "
        "longlaoyi_v3 longanran_v3 longanxuan_v3",
    ),
    "jun": Preset(
        "espeak-m7-50", "m", "zh", "a clear man's voice, Mandarin",
        "longyingxun_v3 longanlang_v3 longcheng_v3 longze_v3 longzhe_v3 longnan_v3 longyichen_v3 longshuo_v3 "
        "longshu_v3 longxiu_v3 longanzhi_v3",
    ),
    "bo": Preset(
        "espeak-robert-50", "m", "zh", "a deep man's voice, Mandarin",
        "longfei_v3 longanyun_v3 longtian_v3 longhao_v3 longhan_v3 longsanshu_v3 longlaobo_v3",
    ),
}  # fmt: skip
"""Voice name -> what it is. Presets of the service for dialects and languages that the base does not speak have no voice here."""


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
        "speech_tokenizer": workshop.speech_tokenizer(clips),
        "speaker_encoder": workshop.speaker_encoder(clips),
    }
    voices = _preset_voices(workshop, clips)
    manifest = Manifest(
        name="nano",
        preset="nano",
        networks=NANO,
        sampling=NANO.sampling,
        frontend=FRONTEND,
        voices={
            name: VoiceEntry(preset.description, preset.gender, preset.language, aliases=tuple(preset.aliases.split()))
            for name, preset in PRESETS.items()
            if name in voices
        },
        training={
            "recipe": "cosyforge pretrain",
            "corpus": f"{len(clips)} clips in English and Mandarin by flite (slt, awb, kal16) and espeak-ng; never heard: "
            + ", ".join(HELD_OUT),
            "extra_corpus": workshop.extra_corpus is not None,
            "steps": steps,
            "seed": workshop.seed,
            # what fine-tuning goes on with
            "lm_prompt": False,
            "flow_loss": {
                "prior_weight": PRIOR_WEIGHT,
                "prior_from_bin": PRIOR_FROM_BIN,
                "t_power": TIME_POWER,
                "sampler_share": SAMPLER_SHARE,
                "pair_share": PAIR_SHARE,
                # speaking always goes through the block mask
                "streaming_share": 0.9,
            },
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
        frontend=FRONTEND,
    )
    return save_model(model, out, storage=torch.bfloat16)


def _preset_voices(workshop: Workshop, clips: list[Any]) -> dict[str, Voice]:
    vectors: Tensor = workshop.vectors(clips)
    means = speaker_means(clips, vectors)
    codes = workshop.codes(clips)
    voices = {}
    for name, preset in PRESETS.items():
        speaker = preset.speaker
        fits = [
            c.clip.speaker == speaker and c.clip.language == preset.language and not c.clip.instruction for c in clips
        ]
        if not any(fits):
            workshop.on_log(f"voice {name} is left out: this corpus holds no clip of {speaker}")
            continue
        index = _prompt_clip(fits, [len(code) for code in codes])
        code = codes[index]
        voices[name] = Voice(
            speaker_embedding=means[speaker],
            # no transcript: this LM reads better without a prompt (docs/nano-model-card.md); the flow hears it
            prompt_text=None,
            prompt_token=code,
            prompt_mel=clips[index].mel[: 2 * len(code)].float().T.contiguous(),
        )
    return voices


def _prompt_clip(fits: list[bool], num_tokens: list[int], wanted: int = 75) -> int:
    """The clip of the speaker whose length is nearest to three seconds."""
    candidates = [i for i, mine in enumerate(fits) if mine]
    return min(candidates, key=lambda i: abs(num_tokens[i] - wanted))
