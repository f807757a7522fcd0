"""The eight hyper-parameters of the API, checked once at the edge, and one StageConfig each for LM and flow.

The API says how long to train, what to keep and how large a batch is. Learning rates and the like are ours: documented
constants here, one recipe for small networks and one for large ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from cosyforge.errors import InvalidParameter

MAX_VALUE = 2**31 - 1
"""Largest value of any field. Source: API reference, "CosyVoice speech synthesis model hyper_parameters"."""

SMALL_NETWORK_PARAMETERS = 50_000_000
"""At and above this size a network gets the recipe for large networks: low-rank updates mostly, and a longer warmup."""

_SMALL_NETWORK_SPEECH_MIN = 23.0
"""Of more speech than this, counted in every epoch, a small network learns in smaller steps: what it learns of a voice it learns in
these, and whatever it moves beyond that costs words. flite's rms as a larger man, 8 minutes, 30+30 epochs: words wrong .26 with 38 here,
.24 with 23; likeness .92, .90. It is the first three epochs of 8 minutes, or five of 4.5: with three of those the voice is not there."""


@dataclass(frozen=True)
class StageConfig:
    """How one network is trained."""

    max_epoch: int
    step: int
    """Save interval, in epochs counted back from max_epoch."""
    num: int
    """Most checkpoints kept of this network."""
    batch_size: int
    """Budget of one batch, padding included: sequence positions for the LM, mel frames for the flow."""
    learning_rate: float
    """Peak rate, reached after the warmup."""
    final_learning_rate_factor: float
    """The rate falls along a cosine to this part of the peak; not to zero, or the last saved epochs would be one."""
    max_warmup_steps: int
    """The warmup is a tenth of the run, at most this many steps."""
    weight_decay: float
    """For low-rank factors alone, where decay pulls towards the base model; elsewhere it would pull towards zero."""
    max_gradient_norm: float
    adam_betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True)
class HyperParameters:
    """What a job asks of training, under the names of the API.

    Units: *_max_epoch and *_step in epochs; lm_batch_size in sequence positions (text and speech tokens) a batch;
        fm_batch_size in mel frames (50 a second) a batch
    Source: product document, "Hyperparameters"; the units of the batch sizes are our reading, the document has none
    """

    lm_max_epoch: int
    lm_step: int
    lm_num: int
    lm_batch_size: int
    fm_max_epoch: int
    fm_step: int
    fm_num: int
    fm_batch_size: int

    @classmethod
    def parse(cls, values: object) -> Self:
        """Check every field of the request's `hyper_parameters`.

        Raises: InvalidParameter naming every field that is missing, wrong or unknown; its `problems` lists them
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise InvalidParameter(
                f"hyper_parameters must be an object with the fields {', '.join(names)} (got {_shown(values)})"
            )
        problems = [problem for name in names if (problem := _problem(name, values)) is not None]
        problems += [
            f"hyper_parameters.{key} is not known; the fields are {', '.join(names)}"
            for key in values
            if key not in names
        ]
        if problems:
            raise InvalidParameter("; ".join(problems), problems=problems)
        return cls(**{name: values[name] for name in names})

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    def lm_stage(self, num_parameters: int, speech_min: float) -> StageConfig:
        """The LM's training, by the size of the network and the minutes of speech in one epoch."""
        large = num_parameters >= SMALL_NETWORK_PARAMETERS
        return StageConfig(
            max_epoch=self.lm_max_epoch,
            step=self.lm_step,
            num=self.lm_num,
            batch_size=self.lm_batch_size,
            # low-rank updates of a large LM take 1e-4, ten times the 1e-5 that is usual when all of its weights train.
            # A small one trains nearly whole and unlearns to read: of a stranger whose codes are unclear (flite's rms as a larger man) 4+4
            # epochs at 3e-5 lose .30 of the words, at 5e-6 .19; with the tuned flow alone it is .24. The voice comes from the flow.
            # The better the base reads, the less of that may go: the demonstration's voice has 37 of 47 words at 5e-6, 43 at 2e-6
            learning_rate=1e-4 if large else _small_network_rate(2e-6, self.lm_max_epoch * speech_min),
            final_learning_rate_factor=0.2,
            max_warmup_steps=100 if large else 30,
            weight_decay=0.01,
            max_gradient_norm=1.0,
        )

    def flow_stage(self, num_parameters: int, speech_min: float) -> StageConfig:
        """The flow's training, by the size of the network and the minutes of speech in one epoch."""
        large = num_parameters >= SMALL_NETWORK_PARAMETERS
        return StageConfig(
            max_epoch=self.fm_max_epoch,
            step=self.fm_step,
            num=self.fm_num,
            batch_size=self.fm_batch_size,
            # the built-in base on 8 minutes of flite's rms, 4+4 epochs, (LM, flow): words wrong .33 after (4e-4, 1e-3), .28 after
            # (1e-4, 2e-4), .14 after (3e-5, 1e-4); likeness .954, .948, .938, from .691. The voice needs few steps, and the
            # codes of a stranger are unclear: whatever learns them well learns to mumble
            learning_rate=1e-4 if large else _small_network_rate(1e-4, self.fm_max_epoch * speech_min),
            final_learning_rate_factor=0.2,
            max_warmup_steps=100 if large else 30,
            weight_decay=0.01,
            max_gradient_norm=1.0,
        )


def _small_network_rate(rate: float, speech_min: float) -> float:
    return rate * min(1.0, _SMALL_NETWORK_SPEECH_MIN / speech_min)


def _problem(name: str, values: Mapping[object, object]) -> str | None:
    rule = f"must be an integer in [1, {MAX_VALUE}]"
    if name not in values:
        return f"hyper_parameters.{name} is missing; it {rule}"
    value = values[name]
    # JSON's true is a Python int and 5.0 equals 5; neither is an integer on the wire
    if type(value) is not int or not 1 <= value <= MAX_VALUE:
        return f"hyper_parameters.{name} {rule} (got {_shown(value)})"
    return None


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
