"""The official speech tokenizer and speaker encoder as ONNX files, called like the torch networks they stand in for.

ONNX Runtime is imported only when a file is opened. The official files take one clip, so a batch runs clip by clip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cosyforge.errors import InvalidParameter


class Session(Protocol):
    """What is used of an ONNX Runtime session."""

    def get_inputs(self) -> list[Any]: ...

    def run(self, output_names: list[str] | None, feeds: dict[str, Any]) -> list[Any]: ...


def open_session(path: str | Path, num_threads: int | None = None) -> Session:
    """Open an ONNX file on the CPU with as many threads as torch uses (or num_threads).

    Raises: InvalidParameter naming the file when it is missing or no ONNX model
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    if not Path(path).is_file():
        raise InvalidParameter(f"{path}: no such ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    try:
        session: Session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (failures.Fail, failures.InvalidGraph, failures.InvalidProtobuf, failures.NotImplemented) as error:
        raise InvalidParameter(f"{path}: ONNX Runtime cannot open it ({error})") from error
    return session


class OnnxSpeechTokenizer:
    """speech_tokenizer_v3.onnx: inputs by position, mel (1, 128, T) and its length (1,) int32; output ids (1, S)."""

    def __init__(self, session: Session, path: Path | None = None) -> None:
        self._session = session
        self._input_names = _input_names(session, 2, "speech tokenizer")
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> OnnxSpeechTokenizer:
        return cls(open_session(path), Path(path))

    def __call__(self, mel: Tensor, mel_len: Tensor) -> tuple[Tensor, Tensor]:
        """Speech tokens of a padded batch; positions from code_len on are zero.

        Shapes: mel (B, 128, T), mel_len (B,) -> code (B, S) int64, code_len (B,)
        """
        codes = [self._tokens(clip[:, :length]) for clip, length in zip(mel, mel_len.tolist(), strict=True)]
        code_len = torch.tensor([code.shape[0] for code in codes])
        return torch.nn.utils.rnn.pad_sequence(codes, batch_first=True), code_len

    def _tokens(self, mel: Tensor) -> Tensor:
        feeds = {
            self._input_names[0]: mel[None].to("cpu", torch.float32).contiguous().numpy(),
            self._input_names[1]: np.array([mel.shape[1]], dtype=np.int32),
        }
        return torch.from_numpy(np.asarray(self._session.run(None, feeds)[0]).reshape(-1).astype(np.int64))


class OnnxSpeakerEncoder:
    """campplus.onnx: one input, fbank (1, T, 80); output (1, 192)."""

    def __init__(self, session: Session, path: Path | None = None) -> None:
        self._session = session
        self._input_names = _input_names(session, 1, "speaker encoder")
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> OnnxSpeakerEncoder:
        return cls(open_session(path), Path(path))

    def __call__(self, fbank: Tensor) -> Tensor:
        """One vector per clip.

        Shapes: fbank (B, T, 80) -> (B, 192)
        """
        clips = fbank.to("cpu", torch.float32).contiguous().numpy()
        outputs = [self._session.run(None, {self._input_names[0]: clip[None]})[0] for clip in clips]
        return torch.from_numpy(np.concatenate([np.asarray(y, dtype=np.float32).reshape(1, -1) for y in outputs]))


def _input_names(session: Session, count: int, kind: str) -> list[str]:
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != count:
        raise InvalidParameter(
            f"the ONNX {kind} must have {count} inputs, this file has {len(names)}: {', '.join(names)}"
        )
    return names
