"""The flow by itself, with small random networks: sampling, the loss of a batch against single samples, what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_flow import CONFIG, SPEAKER, random_flow, random_mel, random_prompt, random_tokens
from torch import Tensor

from cosyforge.cosyvoice.config import OFFICIAL
from cosyforge.cosyvoice.dit import DiT, attend, attention_mask
from cosyforge.cosyvoice.flow import MAX_FRAMES, Flow, FlowBatch, euler_schedule, fixed_noise, time_grid
from cosyforge.cosyvoice.flow_stream import FlowStream
from cosyforge.errors import InvalidParameter


def test_the_official_config_has_the_released_networks_size() -> None:
    with torch.device("meta"):
        flow = Flow(OFFICIAL.flow)
    assert len(flow.state_dict()) == 330
    assert sum(tensor.numel() for tensor in flow.state_dict().values()) / 1e6 == pytest.approx(332.26, abs=0.01)
    assert flow.estimator.rotary_embed.inv_freq.shape == (32,)


def test_a_new_network_starts_with_blocks_that_change_nothing() -> None:
    estimator = Flow(CONFIG).eval().estimator
    mel, speaker = random_mel(8), torch.zeros(1, CONFIG.mel_bins)
    hidden = estimator.input_embed(mel, mel, mel, speaker)
    expected = estimator.proj_out(torch.nn.functional.layer_norm(hidden, (CONFIG.dim,), eps=1e-6)).mT
    torch.testing.assert_close(estimator(mel, mel, torch.ones(1), speaker, mel), expected)


def test_the_block_mask_changes_the_mel(flow: Flow) -> None:
    """Otherwise the comparisons above would prove little."""
    token, prompt = random_tokens(30), random_prompt(6)
    gap = flow.sample(token, *prompt, streaming=True) - flow.sample(token, *prompt)
    assert float(gap.abs().max()) > 1e-2


# sampling


def test_without_guidance_the_unconditional_half_is_never_computed(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    velocity = DiT.velocity

    def counted(self: DiT, x: Tensor, *rest: object, **options: object) -> Tensor:
        rows.append(x.shape[0])
        return velocity(self, x, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(DiT, "velocity", counted)
    free = flow.sample(random_tokens(9), *random_prompt(3), guidance=0.0)
    guided = flow.sample(random_tokens(9), *random_prompt(3), guidance=1e-6)
    assert rows == [1] * CONFIG.num_steps + [2] * CONFIG.num_steps
    torch.testing.assert_close(free, guided, rtol=0, atol=1e-3)


def test_guidance_pushes_away_from_the_unconditional_velocity(flow: Flow) -> None:
    """One Euler step is a sum that can be written down."""
    token = random_tokens(9)
    mu, speaker = flow.mu(token), flow.speaker(SPEAKER)
    noise, zero_time, nothing = fixed_noise(CONFIG.mel_bins)[:, :, :18], torch.zeros(1), torch.zeros_like(mu)
    guided = flow.estimator(noise, mu, zero_time, speaker, nothing)
    free = flow.estimator(noise, nothing, zero_time, torch.zeros_like(speaker), nothing)
    mel = flow.sample(token, None, None, SPEAKER, num_steps=1, guidance=2.0, temperature=1.0)
    torch.testing.assert_close(mel, noise + 3 * guided - 2 * free, rtol=0, atol=1e-4)


def test_temperature_scales_the_starting_noise(flow: Flow) -> None:
    still = flow.sample(random_tokens(9), None, None, SPEAKER, temperature=0.0, num_steps=1, guidance=0.0)
    mu, speaker = flow.mu(random_tokens(9)), flow.speaker(SPEAKER)
    nothing = torch.zeros_like(mu)
    torch.testing.assert_close(still, flow.estimator(nothing, mu, torch.zeros(1), speaker, nothing), rtol=0, atol=1e-5)


def test_steps_begin_at_zero_end_at_one_and_grow() -> None:
    times, widths = euler_schedule(10)
    assert float(times[0]) == 0.0
    assert float(times[-1] + widths[-1]) == pytest.approx(1.0, abs=1e-6)
    assert bool((widths[1:] > widths[:-1]).all())


def test_sampling_leaves_the_global_random_state_alone(flow: Flow) -> None:
    fixed_noise.cache_clear()
    before = torch.random.get_rng_state()
    flow.sample(random_tokens(5), None, None, SPEAKER)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_last_tokens_are_context_only_until_the_end(flow: Flow) -> None:
    token = random_tokens(12)
    torch.testing.assert_close(flow.mu(token, final=False), flow.mu(random_tokens(12))[:, :, :18], rtol=0, atol=1e-6)
    assert flow.mu(token[:, :3], final=False).shape == (1, CONFIG.mel_bins, 0)
    assert flow.sample(token[:, :3], *random_prompt(3), final=False).shape == (1, CONFIG.mel_bins, 0)


def test_mu_of_a_piece_is_the_piece_of_mu(flow: Flow) -> None:
    token = random_tokens(20)
    whole = flow.mu(token)
    for start, end in ((0, 5), (1, 4), (5, 17), (6, 19), (12, 20)):
        piece = flow.mu_stream(token, start, end, final=True)
        torch.testing.assert_close(piece, whole[:, :, 2 * start : 2 * end], rtol=0, atol=1e-6)


# what a frame may see


def test_attention_mask_is_none_when_nothing_is_hidden() -> None:
    assert attention_mask(10) is None
    assert attention_mask(10, lengths=torch.tensor([10, 12])) is None
    assert attention_mask(10, chunk_frames=10) is None
    assert attention_mask(10, chunk_frames=10, first_frame=30) is None
    assert attention_mask(11, chunk_frames=10) is not None
    assert attention_mask(10, lengths=torch.tensor([10, 9])) is not None


def test_a_frame_sees_to_the_end_of_its_block_and_no_padding() -> None:
    mask = attention_mask(5, lengths=torch.tensor([7, 9]), chunk_frames=3, first_frame=4)
    assert mask is not None
    assert mask.shape == (2, 1, 5, 9)
    # frames 4 and 5 end their block at 6, frames 6 to 8 at 9
    assert mask[0, 0].sum(dim=1).tolist() == [6, 6, 7, 7, 7]
    assert mask[1, 0].sum(dim=1).tolist() == [6, 6, 9, 9, 9]


def test_written_out_attention_equals_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    mask = attention_mask(9, lengths=torch.tensor([9, 6]), chunk_frames=4)
    expected = attend(query, key, value, mask)
    trained = attend(query.bfloat16().requires_grad_(), key.bfloat16(), value.bfloat16(), mask)
    torch.testing.assert_close(trained.float(), expected, rtol=0, atol=3e-2)
    assert type(trained.grad_fn).__name__ == "UnsafeViewBackward0"  # a matrix product, not the fused kernel


# the loss


def _batch(token_len: list[int], mel_len: list[int]) -> FlowBatch:
    batch_size = len(token_len)
    generator = torch.Generator().manual_seed(11)
    return FlowBatch(
        token=torch.randint(CONFIG.speech_token_size, (batch_size, max(token_len)), generator=generator),
        token_len=torch.tensor(token_len),
        mel=torch.randn(batch_size, CONFIG.mel_bins, max(mel_len), generator=generator),
        mel_len=torch.tensor(mel_len),
        speaker_embedding=torch.randn(batch_size, CONFIG.speaker_dim, generator=generator),
    )


def _one(batch: FlowBatch, index: int) -> FlowBatch:
    num_tokens, num_frames = int(batch.token_len[index]), int(batch.mel_len[index])
    row = slice(index, index + 1)
    return FlowBatch(
        batch.token[row, :num_tokens],
        batch.token_len[row],
        batch.mel[row, :, :num_frames],
        batch.mel_len[row],
        batch.speaker_embedding[row],
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_loss_of_a_batch_is_the_frame_weighted_mean_of_its_samples(flow: Flow, streaming: bool) -> None:
    batch = _batch([14, 9, 17], [28, 18, 34])
    t, keep, cond_len = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 5, 7])
    z = torch.randn(3, CONFIG.mel_bins, 34, generator=torch.Generator().manual_seed(12))
    together = flow.loss(batch, streaming=streaming, t=t, z=z, keep=keep, cond_len=cond_len, prior_weight=0.5)
    total = prior = torch.zeros(())
    for index, num_frames in enumerate((28, 18, 34)):
        row = slice(index, index + 1)
        alone = flow.loss(
            _one(batch, index),
            streaming=streaming,
            t=t[row],
            z=z[row, :, :num_frames],
            keep=keep[row],
            cond_len=cond_len[row],
            prior_weight=0.5,
        )
        torch.testing.assert_close(together.pred[row, :, :num_frames], alone.pred, rtol=0, atol=1e-4)
        total, prior = total + alone.loss * num_frames, prior + alone.prior_loss * num_frames
    torch.testing.assert_close(together.loss, total / 80, rtol=1e-5, atol=0)
    torch.testing.assert_close(together.prior_loss, prior / 80, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("num_tokens", "num_frames"), [(10, 21), (12, 20), (10, 26)])
def test_tokens_and_mel_are_cut_to_what_both_have(flow: Flow, num_tokens: int, num_frames: int) -> None:
    batch = _batch([num_tokens, 8], [num_frames, 16])
    cut = FlowBatch(
        batch.token[:, :10],
        torch.tensor([10, 8]),
        batch.mel[:, :, :20],
        torch.tensor([20, 16]),
        batch.speaker_embedding,
    )
    given = {"t": torch.tensor([0.3, 0.6]), "keep": torch.ones(2), "cond_len": torch.tensor([3, 0])}
    z = torch.randn(2, CONFIG.mel_bins, num_frames, generator=torch.Generator().manual_seed(13))
    ours = flow.loss(batch, streaming=False, z=z, **given)  # type: ignore[arg-type]
    expected = flow.loss(cut, streaming=False, z=z[:, :, :20], **given)  # type: ignore[arg-type]
    assert ours.pred.shape[2] == 20
    assert torch.equal(ours.loss, expected.loss)


def test_a_sample_without_an_aligned_token_is_named(flow: Flow) -> None:
    with pytest.raises(ValueError, match="sample 1 of the batch has 5 speech tokens and 1 mel frames"):
        flow.loss(_batch([4, 5], [8, 1]), streaming=False)


def test_drawn_loss_repeats_under_the_same_generator_and_for_a_single_sample(flow: Flow) -> None:
    batch = _batch([9], [18])
    losses = [
        float(flow.loss(batch, streaming=False, generator=torch.Generator().manual_seed(seed)).loss.detach())
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_loss_with_a_generator_leaves_the_global_random_state_alone(flow: Flow) -> None:
    before = torch.random.get_rng_state()
    flow.loss(_batch([9, 4], [18, 8]), streaming=True, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_clean_mel_is_as_far_off_as_the_velocity_is_for_the_time_that_is_left(flow: Flow) -> None:
    batch, t = _batch([9], [18]), torch.tensor([0.3])
    z = torch.randn(1, CONFIG.mel_bins, 18, generator=torch.Generator().manual_seed(13))

    result = flow.loss(batch, streaming=False, t=t, z=z, keep=torch.ones(1), cond_len=torch.zeros(1))

    error = result.pred - (batch.mel - z)
    torch.testing.assert_close(result.clean, batch.mel + 0.7 * error, rtol=1e-4, atol=1e-4)


def test_prior_weight_teaches_the_token_side_and_is_reported_apart(flow: Flow) -> None:
    batch = _batch([9, 4], [18, 8])
    given = {"t": torch.tensor([0.3, 0.6]), "keep": torch.zeros(2), "cond_len": torch.zeros(2)}
    z = torch.randn(2, CONFIG.mel_bins, 18, generator=torch.Generator().manual_seed(13))
    plain = flow.loss(batch, streaming=False, z=z, **given)  # type: ignore[arg-type]
    with_prior = flow.loss(batch, streaming=False, z=z, prior_weight=0.25, **given)  # type: ignore[arg-type]
    expected = torch.cat([(flow.mu(_one(batch, i).token) - _one(batch, i).mel).flatten() for i in (0, 1)]).abs().mean()
    torch.testing.assert_close(with_prior.prior_loss, expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(plain.prior_loss, with_prior.prior_loss)
    torch.testing.assert_close(with_prior.loss, plain.loss + 0.25 * expected, rtol=1e-5, atol=0)
    # bins below the first are free to say something else, and are not forgotten in the mean
    upper = flow.loss(batch, streaming=False, z=z, prior_weight=0.25, prior_from_bin=3, **given)  # type: ignore[arg-type]
    rows = [(flow.mu(_one(batch, i).token) - _one(batch, i).mel)[:, 3:].abs().sum() for i in (0, 1)]
    torch.testing.assert_close(upper.prior_loss, sum(rows).detach() / (26 * CONFIG.mel_bins), rtol=1e-5, atol=0)
    torch.testing.assert_close(upper.mu[:1], flow.mu(_one(batch, 0).token))
    # keep is 0 throughout: only the prior can reach the embedding
    embedding = flow.input_embedding.weight
    assert not torch.autograd.grad(plain.loss, embedding)[0].any()
    assert torch.autograd.grad(with_prior.loss, embedding)[0].any()


def test_t_power_draws_earlier_times(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[Tensor] = []
    forward = DiT.forward

    def noted(self: DiT, x: Tensor, mu: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        times.append(t)
        return forward(self, x, mu, t, *rest)

    monkeypatch.setattr(DiT, "forward", noted)
    for t_power in (1.0, 2.0):
        generator = torch.Generator().manual_seed(4)
        flow.loss(_batch([2] * 50, [4] * 50), streaming=False, generator=generator, t_power=t_power)
    torch.testing.assert_close(times[1], times[0] ** 2)


def test_sampler_share_draws_the_times_of_the_samplers_steps_and_weaker_noise_at_the_first(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, noises = [], []

    def noted(self: DiT, x: Tensor, mu: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        times.append(t)
        noises.append(x)
        return torch.zeros_like(x)

    monkeypatch.setattr(DiT, "forward", noted)
    steps = time_grid(CONFIG.num_steps)[:-1]
    for share in (0.0, 0.7, 1.0):
        flow.loss(
            _batch([2] * 400, [4] * 400),
            streaming=False,
            generator=torch.Generator().manual_seed(4),
            sampler_share=share,
        )
    at_steps = [torch.isin(t, steps).float().mean().item() for t in times]
    assert at_steps[0] == 0.0
    assert at_steps[1] == pytest.approx(0.7, abs=0.08)
    assert at_steps[2] == 1.0
    assert (times[2] == 0).float().mean().item() == pytest.approx(0.65, abs=0.08)
    strength = noises[2][times[2] == 0].std(dim=(1, 2))  # at time 0 nothing but noise goes in
    assert strength.min() < 0.3
    assert strength.max() > 0.7


def test_sampler_share_of_a_single_step_is_its_beginning(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step = random_flow(dataclasses.replace(CONFIG, num_steps=1))
    times: list[Tensor] = []
    monkeypatch.setattr(DiT, "forward", lambda self, x, mu, t, *rest: times.append(t) or torch.zeros_like(x))
    one_step.loss(
        _batch([2] * 9, [4] * 9), streaming=False, generator=torch.Generator().manual_seed(4), sampler_share=1.0
    )
    assert not times[0].any()


def test_a_padded_batch_in_bfloat16_has_a_finite_gradient() -> None:
    flow = random_flow().train()
    with torch.autocast("cpu", torch.bfloat16):
        result = flow.loss(_batch([14, 9], [28, 18]), streaming=True, prior_weight=1.0)
    torch.autograd.backward(result.loss)
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


# what is refused


def test_a_prompt_whose_mel_does_not_fit_its_tokens_is_refused(flow: Flow) -> None:
    with pytest.raises(ValueError, match=r"prompt_mel must have shape \(1, 12, 8\)"):
        flow.sample(random_tokens(5), random_tokens(4), random_mel(9), SPEAKER)


def test_a_special_id_is_refused(flow: Flow) -> None:
    token = torch.tensor([[1, CONFIG.speech_token_size]])
    with pytest.raises(ValueError, match="speech token 40 does not exist: ids end at 39"):
        flow.sample(token, None, None, SPEAKER)
    with pytest.raises(ValueError, match="speech token 40 does not exist"):
        FlowStream(flow, None, None, SPEAKER).push(token[0], final=False)


def test_more_than_the_noise_covers_is_refused_before_any_work(flow: Flow) -> None:
    token = random_tokens(MAX_FRAMES // CONFIG.frames_per_token + 1)
    with pytest.raises(InvalidParameter, match=r"15002 mel frames \(300.0 s\).*split the text"):
        flow.sample(token, None, None, SPEAKER)
    with pytest.raises(InvalidParameter, match="15002 mel frames"):
        FlowStream(flow, None, None, SPEAKER).push(token[0], final=False)


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"guidance": -0.1}, {"temperature": -1.0}])
def test_impossible_settings_are_refused(flow: Flow, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        flow.sample(random_tokens(5), None, None, SPEAKER, **settings)  # type: ignore[arg-type]


def test_blocks_that_cut_a_token_in_two_are_refused() -> None:
    with pytest.raises(ValueError, match=r"chunk_frames \(5\) must be a multiple of frames_per_token \(2\)"):
        Flow(dataclasses.replace(CONFIG, chunk_frames=5))
