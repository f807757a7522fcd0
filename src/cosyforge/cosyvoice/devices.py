"""Where networks compute: a CUDA device where there is one, else the processor."""

from __future__ import annotations

import torch

from cosyforge.errors import InvalidParameter


def usable_device(name: str | None = None) -> str:
    """The named device, or the fastest one when none is named.

    Raises: InvalidParameter when the name is none of cpu, cuda, cuda:0 and so on, or this machine lacks it
    """
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return "cuda" if num_cuda else "cpu"
    kind, _, number = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (number.isdecimal() or name == "cuda")):
        raise InvalidParameter(f"there is no device {name!r}; devices are cpu, cuda, cuda:0, cuda:1 and so on")
    if kind == "cuda" and int(number or 0) >= num_cuda:
        raise InvalidParameter(
            f"this machine has no device {name!r}: torch {torch.__version__} finds {num_cuda} CUDA devices; say cpu, or "
            "install torch with CUDA and the driver"
        )
    return name
