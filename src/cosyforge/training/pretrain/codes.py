"""Speech codes of every clip, made once by the trained tokenizer and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.training.batches import device_of, padded_rows
from cosyforge.training.pretrain.corpus import PreparedClip

_BATCH = 16


@torch.inference_mode()
def encode_clips(tokenizer: SpeechTokenizer, clips: list[PreparedClip]) -> list[Tensor]:
    """Codes of each clip, int64 (S,), cut so that two mel frames exist for every code."""
    tokenizer.eval()
    device = device_of(tokenizer)
    order = sorted(range(len(clips)), key=lambda i: len(clips[i].whisper))
    codes: list[Tensor] = [torch.empty(0, dtype=torch.long)] * len(clips)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        mels = [clips[i].whisper.float() for i in chosen]
        mel, mel_len = padded_rows(mels, device)
        code, code_len = (part.cpu() for part in tokenizer(mel.transpose(1, 2), mel_len))
        for row, index in enumerate(chosen):
            size = min(int(code_len[row]), len(clips[index].mel) // 2)
            codes[index] = code[row, :size].long().clone()
    return codes


def load_or_encode(path: Path, tokenizer: Callable[[], SpeechTokenizer], clips: list[PreparedClip]) -> list[Tensor]:
    """The codes on disk, made now when they are missing; codes are only valid for the tokenizer that made them."""
    if not path.exists():
        codes = encode_clips(tokenizer(), clips)
        save_file(
            {"code": torch.cat(codes).to(torch.int16), "end": torch.tensor([len(c) for c in codes]).cumsum(0)},
            path.with_suffix(".part"),
        )
        path.with_suffix(".part").replace(path)
    tensors = load_file(path)
    return [piece.long() for piece in torch.tensor_split(tensors["code"], tensors["end"][:-1].tolist())]
