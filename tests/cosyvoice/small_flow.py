"""A small flow with random weights, and random tokens, mels and prompts for it."""

from __future__ import annotations

import torch
from torch import Tensor

from cosyforge.cosyvoice.config import FlowConfig
from cosyforge.cosyvoice.flow import Flow

CONFIG = FlowConfig(
    speech_token_size=40,
    mel_bins=12,
    speaker_dim=16,
    pre_lookahead_channels=20,
    dim=24,
    depth=2,
    num_heads=3,
    head_dim=8,
    conv_pos_kernel=7,
    conv_pos_groups=4,
    dropout=0.0,
    chunk_frames=10,
    num_steps=4,
)


def random_flow(config: FlowConfig = CONFIG) -> Flow:
    """All weights random: those of the time start as zero and would hide most of the network."""
    generator = torch.Generator().manual_seed(5)
    flow = Flow(config).eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return flow


def random_tokens(count: int, seed: int = 1) -> Tensor:
    return torch.randint(CONFIG.speech_token_size, (1, count), generator=torch.Generator().manual_seed(seed))


def random_mel(num_frames: int, seed: int = 2) -> Tensor:
    return torch.randn(1, CONFIG.mel_bins, num_frames, generator=torch.Generator().manual_seed(seed))


SPEAKER = torch.randn(1, CONFIG.speaker_dim, generator=torch.Generator().manual_seed(3))


def random_prompt(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    return random_tokens(num_tokens, seed=7), random_mel(num_tokens * CONFIG.frames_per_token), SPEAKER
