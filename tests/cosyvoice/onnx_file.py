"""Writes ONNX files of one or two operators for tests, straight in protobuf's wire format: no onnx package needed."""

from __future__ import annotations

from pathlib import Path

FLOAT, INT32 = 1, 6


def write_tokenizer_file(path: Path) -> None:
    """A stand-in for the official speech tokenizer: mel (1, 128, T) and a length -> whole part of the mean (1, T)."""
    inputs = [_value_info("feats", FLOAT, (1, 128, "frames")), _value_info("feats_length", INT32, (1,))]
    mean = _node("ReduceMean", "feats", "mean", [_ints("axes", [1]), _int("keepdims", 0)])
    ids = _node("Cast", "mean", "ids", [_int("to", INT32)])
    _write(path, [mean, ids], inputs, _value_info("ids", INT32, (1, "frames")))


def write_speaker_file(path: Path) -> None:
    """A stand-in for the official speaker encoder: fbank (1, T, 80) -> its mean over time (1, 80)."""
    mean = _node("ReduceMean", "input", "mean", [_ints("axes", [1]), _int("keepdims", 0)])
    _write(path, [mean], [_value_info("input", FLOAT, (1, "frames", 80))], _value_info("mean", FLOAT, (1, 80)))


def _write(path: Path, nodes: list[bytes], inputs: list[bytes], output: bytes) -> None:
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"stand-in")
    graph += b"".join(_bytes(11, value) for value in inputs) + _bytes(12, output)
    opset = _bytes(1, b"") + _varint(2, 13)
    path.write_bytes(_varint(1, 8) + _bytes(7, graph) + _bytes(8, opset))


def _node(operator: str, source: str, target: str, attributes: list[bytes]) -> bytes:
    node = _bytes(1, source.encode()) + _bytes(2, target.encode()) + _bytes(4, operator.encode())
    return node + b"".join(_bytes(5, attribute) for attribute in attributes)


def _int(name: str, value: int) -> bytes:
    return _bytes(1, name.encode()) + _varint(3, value) + _varint(20, 2)


def _ints(name: str, values: list[int]) -> bytes:
    return _bytes(1, name.encode()) + b"".join(_varint(8, value) for value in values) + _varint(20, 7)


def _value_info(name: str, kind: int, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(_bytes(1, _varint(1, d) if isinstance(d, int) else _bytes(2, d.encode())) for d in shape)
    tensor = _varint(1, kind) + _bytes(2, dims)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(content)) + content


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
