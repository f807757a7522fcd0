"""Which tensors of a network train, and how: whole, as low-rank factors, or not at all. Knows modules, no network.

One rule by size serves a network of 3 M and one of 500 M parameters: what is small trains whole, what is large gets two
thin factors beside it, and where even the factors would be large (a text embedding of 150,000 rows) it stays as it is.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RANK = 16
SCALE = 2.0
"""Factor on the low-rank product in training; a saved delta has it folded into lora_B."""

WHOLE_LIMIT = 3**8 * 80
"""Tensors up to this many elements train whole, and so large may a pair of factors be: the flow's table of 6,561 codes is
the largest. Of a network of width 192 only the LM's two tables of codes are above it; of one of width 1000 the norms,
biases, grouped key/value projections and smaller convolutions are below."""


class Treatment(enum.Enum):
    """How one parameter is trained."""

    WHOLE = "whole"
    LOW_RANK = "low rank"
    FROZEN = "frozen"


def treatment(module: nn.Module, parameter: Tensor, *, rank: int = RANK, whole_limit: int = WHOLE_LIMIT) -> Treatment:
    """Decide for a parameter that sits on this module."""
    if parameter.numel() <= whole_limit:
        return Treatment.WHOLE
    is_matrix = isinstance(module, (nn.Linear, nn.Embedding)) and parameter.dim() == 2
    if is_matrix and rank * sum(parameter.shape) <= whole_limit:
        return Treatment.LOW_RANK
    return Treatment.FROZEN


class LowRankLinear(nn.Linear):
    """A linear layer whose weight stands still while a low-rank product beside it learns.

    It is a subclass and shares the weight, so that the network's own key names and type checks stay true.
    """

    lora_A: nn.Parameter  # noqa: N815 the saved key's name
    lora_B: nn.Parameter  # noqa: N815

    @classmethod
    def wrap(cls, layer: nn.Linear, rank: int, generator: torch.Generator) -> LowRankLinear:
        with torch.device("meta"):
            wrapped = cls(layer.in_features, layer.out_features, bias=layer.bias is not None)
        wrapped.weight = layer.weight
        # None where the layer has no bias, which the base class's annotation does not admit
        wrapped.register_parameter("bias", layer.bias)
        wrapped.lora_A, wrapped.lora_B = _factors(layer.weight, rank, generator)
        return wrapped

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (…, in) -> (…, out)"""
        return super().forward(input) + F.linear(F.linear(input, self.lora_A), self.lora_B) * SCALE


class LowRankEmbedding(nn.Embedding):
    """The same for a table: row = its own plus a mix of `rank` directions."""

    lora_A: nn.Parameter  # noqa: N815
    lora_B: nn.Parameter  # noqa: N815

    @classmethod
    def wrap(cls, layer: nn.Embedding, rank: int, generator: torch.Generator) -> LowRankEmbedding:
        wrapped = cls(layer.num_embeddings, layer.embedding_dim, _weight=layer.weight)
        # the constructor makes a parameter of its own around the same storage; a tied table must stay one object
        wrapped.weight = layer.weight
        wrapped.lora_A, wrapped.lora_B = _factors(layer.weight, rank, generator)
        return wrapped

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (…) -> (…, D)"""
        return super().forward(input) + F.embedding(input, self.lora_B) @ self.lora_A * SCALE


def _factors(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    """Random A and zero B, so that training starts at the base model: (r, in), (out, r)."""
    bound = 1 / math.sqrt(weight.shape[1])
    first = torch.empty(rank, weight.shape[1]).uniform_(-bound, bound, generator=generator)
    second = torch.zeros(weight.shape[0], rank)
    return nn.Parameter(first.to(weight)), nn.Parameter(second.to(weight))


@dataclass(frozen=True)
class Trainables:
    """The parameters of one network that learn, by the key they have in a delta file."""

    whole: Mapping[str, nn.Parameter]
    low_rank: Mapping[str, nn.Parameter]
    """`KEY.lora_A` and `KEY.lora_B`, the scale not yet folded in."""
    num_frozen: int

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.whole, **self.low_rank}

    @property
    def num_trained(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())


def make_trainable(network: nn.Module, *, seed: int, rank: int = RANK, whole_limit: int = WHOLE_LIMIT) -> Trainables:
    """Freeze the network, then free what the rule lets learn; large matrices get their factors here.

    Call it once per network: the factors replace modules in place.
    """
    generator = torch.Generator().manual_seed(seed)
    network.requires_grad_(False)
    whole: dict[str, nn.Parameter] = {}
    low_rank: dict[str, nn.Parameter] = {}
    num_frozen = 0
    for module_name, module, name, parameter in list(_own_parameters(network)):
        key = f"{module_name}.{name}" if module_name else name
        decision = treatment(module, parameter, rank=rank, whole_limit=whole_limit)
        if decision is Treatment.WHOLE:
            parameter.requires_grad_(True)
            whole[key] = parameter
        elif decision is Treatment.LOW_RANK:
            wrapped = _wrap(module, rank, generator)
            _replace(network, module_name, wrapped)
            low_rank[f"{key}.lora_A"], low_rank[f"{key}.lora_B"] = wrapped.lora_A, wrapped.lora_B
        if decision is not Treatment.WHOLE:
            num_frozen += parameter.numel()
    return Trainables(whole, low_rank, num_frozen)


def _own_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Every parameter once, with the module it sits on."""
    seen: set[int] = set()
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield module_name, module, name, parameter


def _wrap(module: nn.Module, rank: int, generator: torch.Generator) -> LowRankLinear | LowRankEmbedding:
    if isinstance(module, nn.Linear):
        return LowRankLinear.wrap(module, rank, generator)
    assert isinstance(module, nn.Embedding)
    return LowRankEmbedding.wrap(module, rank, generator)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def trainable_state(trainables: Trainables) -> dict[str, Tensor]:
    """What was learnt, as a delta file holds it: KEY replaces, KEY.lora_A and KEY.lora_B add B @ A.

    Copies on the CPU; later training steps do not change them.
    """
    state = {key: parameter.detach().clone() for key, parameter in trainables.whole.items()}
    for key, parameter in trainables.low_rank.items():
        folded = parameter.detach() * SCALE if key.endswith(".lora_B") else parameter.detach().clone()
        state[key] = folded
    return {key: tensor.cpu().contiguous() for key, tensor in state.items()}
