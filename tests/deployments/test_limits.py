import random
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyforge.deployments.limits import RateLimits
from cosyforge.errors import Throttled


def limited(rpm=None, tpm=None, name="d"):
    return SimpleNamespace(deployment_id=name, deployed_model=name, rpm_limit=rpm, tpm_limit=tpm)


def is_admitted(limits, deployment, characters, now):
    try:
        limits.admit(deployment, characters, now)
    except Throttled:
        return False
    return True


def test_no_limit_is_no_limit():
    limits = RateLimits()
    for _ in range(1000):
        limits.admit(limited(), 10**6, 0.0)


def test_requests_beyond_the_limit_wait_until_the_oldest_is_a_minute_old():
    limits, deployment = RateLimits(), limited(rpm=2)
    limits.admit(deployment, 5, 0.0)
    limits.admit(deployment, 5, 10.0)
    with pytest.raises(Throttled, match=r"d takes 2 requests per minute \(rpm_limit\)") as caught:
        limits.admit(deployment, 5, 20.0)
    assert caught.value.fields["retry_after_s"] == pytest.approx(40)
    assert not is_admitted(limits, deployment, 5, 59.9)
    assert is_admitted(limits, deployment, 5, 60.0)
    assert not is_admitted(limits, deployment, 5, 69.9)


def test_characters_are_the_tokens():
    limits, deployment = RateLimits(), limited(tpm=100)
    limits.admit(deployment, 60, 0.0)
    with pytest.raises(Throttled, match=r"100 characters per minute \(tpm_limit\)") as caught:
        limits.admit(deployment, 41, 1.0)
    assert 59 <= caught.value.fields["retry_after_s"] <= 59.5
    limits.admit(deployment, 40, 1.0)
    assert is_admitted(limits, deployment, 60, 1.0 + caught.value.fields["retry_after_s"])


def test_a_text_longer_than_the_limit_needs_a_minute_of_silence():
    limits, deployment = RateLimits(), limited(tpm=100)
    limits.admit(deployment, 1, 0.0)
    assert not is_admitted(limits, deployment, 500, 30.0)
    assert is_admitted(limits, deployment, 500, 61.0)
    assert not is_admitted(limits, deployment, 1, 120.0)


def test_text_that_comes_later_is_counted_and_the_next_request_waits():
    limits, deployment = RateLimits(), limited(tpm=100)
    limits.admit(deployment, 0, 0.0)
    for number in range(12):
        limits.add(deployment, 10, 1.0 + number / 100)
    with pytest.raises(Throttled):
        limits.admit(deployment, 0, 2.0)
    assert is_admitted(limits, deployment, 0, 61.5)


def test_a_refusal_counts_nothing_and_deployments_do_not_share():
    limits = RateLimits()
    first, second = limited(rpm=1, name="first"), limited(rpm=1, name="second")
    limits.admit(first, 1, 0.0)
    for number in range(10):
        assert not is_admitted(limits, first, 1, 1.0 + number)
    assert is_admitted(limits, second, 1, 1.0)
    assert is_admitted(limits, first, 1, 60.0)


def test_changed_limits_hold_at_once():
    limits = RateLimits()
    for _ in range(5):
        limits.admit(limited(rpm=10), 1, 0.0)
    with pytest.raises(Throttled) as caught:
        limits.admit(limited(rpm=2), 1, 1.0)
    assert caught.value.fields["retry_after_s"] == pytest.approx(59)
    assert is_admitted(limits, limited(rpm=6), 1, 1.0)


@settings(max_examples=60, deadline=None)
@given(
    rpm=st.integers(1, 8),
    tpm=st.integers(1, 50),
    requests=st.lists(st.tuples(st.floats(0, 20), st.integers(0, 20)), max_size=80),
)
def test_no_sixty_seconds_hold_more_than_is_allowed_and_the_advice_is_right(rpm, tpm, requests):
    limits, deployment, now, admitted = RateLimits(), limited(rpm, tpm), 0.0, []
    for pause_s, characters in requests:
        now += pause_s
        try:
            limits.admit(deployment, characters, now)
        except Throttled as refusal:
            # nobody else comes: exactly then there is room
            now += refusal.fields["retry_after_s"] + 1e-6
            limits.admit(deployment, characters, now)
        admitted.append((now, characters))
    for start, _ in admitted:
        within = [characters for at, characters in admitted if start <= at < start + 60]
        assert len(within) <= rpm
        assert sum(within) <= tpm or len([c for c in within if c]) == 1


def test_many_threads_together_get_what_one_would_get():
    limits, deployment, admitted = RateLimits(), limited(rpm=50), []

    def ask():
        for _ in range(40):
            if is_admitted(limits, deployment, 1, random.random()):
                admitted.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 50


def test_deployments_that_are_gone_are_forgotten():
    limits = RateLimits()
    for number in range(100):
        limits.admit(limited(rpm=1, name=f"d{number}"), 1, number * 100.0)
    assert len(limits._windows) == 1
