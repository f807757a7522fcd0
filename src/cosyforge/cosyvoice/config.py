"""The architecture of every network as data; saved as JSON beside the weights, unknown keys refused.

OFFICIAL is Fun-CosyVoice3-0.5B; NANO is the same architecture at the size of the built-in base model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self


class _Config:
    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Rebuild a config, strict about its keys.

        Raises: ValueError naming the unknown or missing keys
        """
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"{cls.__name__}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class LMConfig(_Config):
    """Qwen2-shaped decoder over text and speech tokens. Ids: sos = speech_token_size, then eos, task_id, fill."""

    text_vocab_size: int = 151936
    hidden_size: int = 896
    num_layers: int = 24
    num_heads: int = 14
    num_kv_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 4864
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    speech_token_size: int = 6561
    num_special_rows: int = 200
    mix_ratio: tuple[int, int] = (5, 15)
    alignment_head: tuple[int, int] | None = None
    """(layer, head) that was taught to look at the text token being spoken next; None when none was."""

    @property
    def num_rows(self) -> int:
        return self.speech_token_size + self.num_special_rows

    @property
    def sos(self) -> int:
        return self.speech_token_size

    @property
    def eos(self) -> int:
        return self.speech_token_size + 1

    @property
    def task_id(self) -> int:
        return self.speech_token_size + 2

    @property
    def fill(self) -> int:
        return self.speech_token_size + 3


@dataclass(frozen=True)
class FlowConfig(_Config):
    """Token embedding, pre-lookahead and DiT velocity estimator. chunk_frames is the streaming mask's block."""

    speech_token_size: int = 6561
    mel_bins: int = 80
    speaker_dim: int = 192
    pre_lookahead: int = 3
    pre_lookahead_channels: int = 1024
    dim: int = 1024
    depth: int = 22
    num_heads: int = 16
    head_dim: int = 64
    ff_mult: int = 2
    conv_pos_kernel: int = 31
    conv_pos_groups: int = 16
    dropout: float = 0.1
    chunk_frames: int = 50
    frames_per_token: int = 2
    num_steps: int = 10
    guidance: float = 0.7
    training_guidance_dropout: float = 0.2
    sigma_min: float = 1e-6
    temperature: float = 1.0
    """Scale of the starting noise; small models speak clearer when it is below one."""
    melody_bin: int | None = None
    """The bin of mu that tells melody, not mel, where there is one: `FlowStream.melody_range` scales it."""


@dataclass(frozen=True)
class HiFTConfig(_Config):
    """Causal HiFT vocoder. prod(upsample_rates) * istft_hop must be 480 samples per mel frame."""

    mel_bins: int = 80
    base_channels: int = 512
    f0_channels: int = 512
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernel_sizes: tuple[int, ...] = (16, 11, 7)
    istft_n_fft: int = 16
    istft_hop: int = 4
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[int, ...] = (1, 3, 5)
    source_resblock_kernel_sizes: tuple[int, ...] = (7, 7, 11)
    num_harmonics: int = 8
    sine_amplitude: float = 0.1
    noise_sigma: float = 0.003
    voiced_threshold_hz: float = 10.0
    conv_pre_look_right: int = 4
    f0_look_right: int = 3
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    sample_rate_hz: int = 24000
    hop: int = 480
    head: str = "absolute"
    """absolute: the network states magnitude and phase of every bin, as the official one; filter: it states what to do to
    the excitation's spectrum, which a small network learns far sooner and which allows long windows."""
    source: str = "staircase"
    """staircase: the phase stands still within a frame, as the released weights were trained with; sine: a real oscillator."""


@dataclass(frozen=True)
class SpeechTokenizerConfig(_Config):
    """FSQ speech tokenizer v3: mel at 100 Hz -> ids at 25 Hz in 0 .. 3**fsq_dim - 1."""

    n_mels: int = 128
    hidden_size: int = 1280
    num_heads: int = 20
    num_layers: int = 12
    fsmn_kernel: int = 31
    fsq_dim: int = 8


@dataclass(frozen=True)
class SpeakerEncoderConfig(_Config):
    """CAM++: fbank at 100 Hz -> one vector."""

    feat_dim: int = 80
    embedding_size: int = 192
    growth_rate: int = 32
    bn_size: int = 4
    init_channels: int = 128
    blocks: tuple[int, ...] = (12, 24, 16)


@dataclass(frozen=True)
class SamplingConfig(_Config):
    """Repetition-aware sampling; temperature divides the scores before it."""

    top_p: float = 0.8
    top_k: int = 25
    window: int = 10
    tau: float = 0.1
    temperature: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """The five networks of one model and how its tokens are drawn by default."""

    lm: LMConfig
    flow: FlowConfig
    hift: HiFTConfig
    speech_tokenizer: SpeechTokenizerConfig | None = None
    speaker_encoder: SpeakerEncoderConfig | None = None
    sampling: SamplingConfig = SamplingConfig()


OFFICIAL = ModelConfig(LMConfig(), FlowConfig(), HiFTConfig(), SpeechTokenizerConfig(), SpeakerEncoderConfig())

NANO = ModelConfig(
    lm=LMConfig(
        text_vocab_size=544,
        hidden_size=192,
        num_layers=6,
        num_heads=3,
        num_kv_heads=1,
        head_dim=64,
        intermediate_size=512,
        alignment_head=(2, 0),
    ),
    flow=FlowConfig(
        pre_lookahead_channels=256,
        dim=192,
        depth=6,
        num_heads=3,
        head_dim=64,
        conv_pos_groups=16,
        dropout=0.0,
        num_steps=4,
        temperature=0.2,
        melody_bin=0,
    ),
    hift=HiFTConfig(
        base_channels=256,
        f0_channels=96,
        upsample_rates=(4,),
        upsample_kernel_sizes=(8,),
        istft_n_fft=480,
        istft_hop=120,
        resblock_kernel_sizes=(3, 7),
        source_resblock_kernel_sizes=(7,),
        num_harmonics=47,
        head="filter",
        source="sine",
    ),
    speech_tokenizer=SpeechTokenizerConfig(hidden_size=192, num_heads=3, num_layers=4),
    speaker_encoder=SpeakerEncoderConfig(growth_rate=8, init_channels=32, blocks=(4, 6, 4)),
    # a small model repeats itself rightly (a long vowel is one token several times): no repetition rule
    sampling=SamplingConfig(top_p=0.5, top_k=5, tau=1.0),
)
