"""The real trainer, slowed down so that a test can reach into the middle of a run that is over in a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cosyforge.training.events import TrainingEvent
from cosyforge.training.finetune import FinetuneResult, combine_finished
from cosyforge.training.finetune import finetune as real_finetune

__all__ = ["combine_finished", "finetune"]


def finetune(*arguments: Path, on_event: Callable[[TrainingEvent], None], **options: Any) -> FinetuneResult:
    """Sleep after every epoch, for SLOW_LM_S or SLOW_FLOW_S."""
    delays_s = {"lm": float(os.environ.get("SLOW_LM_S", 0)), "flow": float(os.environ.get("SLOW_FLOW_S", 0))}

    def slowly(event: TrainingEvent) -> None:
        on_event(event)
        if event.kind == "progress" and event.epoch and not event.step:
            time.sleep(delays_s[event.stage])

    return real_finetune(*arguments, on_event=slowly, **options)
