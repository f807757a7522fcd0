"""Which device is computed on, and that the pretended one of these tests fails where a real one would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cosyforge.cosyvoice.devices import usable_device
from cosyforge.errors import InvalidParameter
from pretend_cuda import pretended_cuda


def test_a_gpu_is_taken_where_there_is_one_and_none_is_named() -> None:
    with pretended_cuda():
        assert [usable_device(name) for name in (None, "cuda", "cuda:0", "cpu")] == ["cuda", "cuda", "cuda:0", "cpu"]


def test_the_processor_is_taken_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device() == "cpu"
    with pytest.raises(InvalidParameter, match=r"'cuda': torch .* finds 0 CUDA devices; say cpu"):
        usable_device("cuda")


def test_a_gpu_too_many_is_missed_by_its_number() -> None:
    with pretended_cuda(), pytest.raises(InvalidParameter, match=r"no device 'cuda:1': torch .* finds 1 CUDA devices"):
        usable_device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cudax", "cpu:0", ""])
def test_what_is_no_name_of_a_device_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match="devices are cpu, cuda, cuda:0"):
        usable_device(name)


@pytest.mark.parametrize(
    "careless",
    [
        lambda far, near: far + near,
        lambda far, near: near.add_(far),
        lambda far, near: torch.where(near > 0, far, far),
        lambda far, near: torch.cat([far, near]),
        lambda far, near: near[far.long()],
        lambda far, near: far.index_put_((torch.tensor([0]),), near[:1]),
        lambda far, near: torch.nn.functional.linear(near, torch.ones(2, 3).to(far.device)),
        lambda far, near: torch.rand(3, generator=torch.Generator(), device=far.device),
        lambda far, near: far.numpy(),
    ],
)
def test_what_a_real_device_refuses_the_pretended_one_does(careless: Callable[[Tensor, Tensor], object]) -> None:
    with pretended_cuda():
        far, near = torch.zeros(3, device="cuda"), torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            careless(far, near)


def test_what_a_real_device_does_the_pretended_one_does() -> None:
    with pretended_cuda():
        far, number = torch.arange(4.0).to("cuda:0"), torch.tensor(2.0)
        far += number
        far[torch.tensor([1])] = 0.0
        far.copy_(far.cpu() * 2)
        weight = torch.nn.Parameter(torch.ones(4, device="cuda"))
        (far * weight).sum().backward()

        assert far.device == weight.grad.device == torch.device("cuda", 0)
        assert far.tolist() == weight.grad.tolist() == [4.0, 0.0, 8.0, 10.0]
        assert far.sum().item() == 22.0
        assert far.cpu().numpy().tolist() == far.tolist()
    assert not torch.cuda.is_available()
