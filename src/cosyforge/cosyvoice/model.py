"""CosyVoice: the networks of one model held together with text tokenizer, voices and defaults; nothing else on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from cosyforge.cosyvoice.config import ModelConfig, SamplingConfig
from cosyforge.cosyvoice.manifest import FrontendEntry, Manifest
from cosyforge.errors import InvalidParameter

if TYPE_CHECKING:
    from cosyforge.cosyvoice.flow import Flow
    from cosyforge.cosyvoice.hift import HiFT
    from cosyforge.cosyvoice.lm import SpeechLM
    from cosyforge.cosyvoice.onnx_networks import OnnxSpeakerEncoder, OnnxSpeechTokenizer
    from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder
    from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
    from cosyforge.cosyvoice.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class Voice:
    """A timbre, and perhaps a clip to continue from.

    Shapes: speaker_embedding (192,), prompt_token (S,) int64, prompt_mel (80, 2S)
    """

    speaker_embedding: Tensor
    prompt_text: str | None = None
    prompt_token: Tensor | None = None
    prompt_mel: Tensor | None = None


@dataclass
class CosyVoice:
    """One model in memory. `networks` may hold fewer than all; asking for one that was not loaded is an error.

    For a tuned model `manifest` is its own; config, frontend and sampling are what counts, its base considered.
    """

    networks: Mapping[str, Any]
    text_tokenizer: TextTokenizer
    manifest: Manifest
    voices: dict[str, Voice]
    sampling: SamplingConfig
    config: ModelConfig
    frontend: FrontendEntry

    @property
    def lm(self) -> SpeechLM:
        return cast("SpeechLM", self._network("lm"))

    @property
    def flow(self) -> Flow:
        return cast("Flow", self._network("flow"))

    @property
    def hift(self) -> HiFT:
        return cast("HiFT", self._network("hift"))

    @property
    def speech_tokenizer(self) -> SpeechTokenizer | OnnxSpeechTokenizer:
        return cast("SpeechTokenizer", self._network("speech_tokenizer"))

    @property
    def speaker_encoder(self) -> SpeakerEncoder | OnnxSpeakerEncoder:
        return cast("SpeakerEncoder", self._network("speaker_encoder"))

    def _network(self, name: str) -> Any:
        if name not in self.networks:
            raise InvalidParameter(f"model {self.manifest.name}: network {name} was not loaded or is not part of it")
        return self.networks[name]
