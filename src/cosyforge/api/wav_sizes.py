"""The two sizes in the header of a WAV file that was sent before its length was known."""

from __future__ import annotations

import struct
from pathlib import Path


def fix_wav_sizes(path: Path) -> None:
    """Write the true sizes into the file.

    Raises: ValueError when the file has no data chunk
    """
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", size - 8))
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, chunk_size = struct.unpack("<4sI", head)
            if name == b"data":
                file.seek(-4, 1)
                file.write(struct.pack("<I", size - file.tell() - 4))
                return
            file.seek(chunk_size + chunk_size % 2, 1)
    raise ValueError(f"{path} has no data chunk")
