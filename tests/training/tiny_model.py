"""The smallest networks that a whole fine-tuning run can be made with."""

from __future__ import annotations

from cosyforge.cosyvoice.config import (
    FlowConfig,
    HiFTConfig,
    LMConfig,
    ModelConfig,
    SpeakerEncoderConfig,
    SpeechTokenizerConfig,
)

TINY = ModelConfig(
    lm=LMConfig(
        text_vocab_size=544, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16,
        intermediate_size=64, speech_token_size=27,
    ),
    flow=FlowConfig(
        speech_token_size=27, pre_lookahead_channels=32, dim=32, depth=2, num_heads=2, head_dim=16, conv_pos_groups=4,
        dropout=0.1,
    ),
    hift=HiFTConfig(
        base_channels=16, f0_channels=16, resblock_kernel_sizes=(3,), source_resblock_kernel_sizes=(3, 3, 3)
    ),
    speech_tokenizer=SpeechTokenizerConfig(hidden_size=32, num_heads=2, num_layers=1, fsq_dim=3),
    speaker_encoder=SpeakerEncoderConfig(growth_rate=4, init_channels=8, blocks=(1, 1, 1)),
)  # fmt: skip
