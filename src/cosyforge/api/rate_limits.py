"""How fast callers may come: token buckets in memory, for HTTP and for sockets alike.

One server has one set of them (`app.state.rate_limits`); a restart forgets what was used up.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cosyforge import metrics
from cosyforge.deployments.records import Deployment
from cosyforge.errors import Throttled
from cosyforge.registry.api_keys import ApiKey

_MAX_BUCKETS = 20_000


@dataclass
class _Bucket:
    tokens: float
    filled_at_s: float


class TokenBuckets:
    """A bucket per name, made full at its first use; the least recently used one goes when there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_buckets: int = _MAX_BUCKETS) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()

    def take(self, name: tuple[str, ...], per_second: float, burst: float) -> float:
        """Take one token out of a bucket that gains `per_second` and holds `burst`.

        Returns: 0 when it was there; otherwise, with nothing taken, after how many seconds it will be
        """
        with self._lock:
            now_s = self._clock()
            bucket = self._buckets.setdefault(name, _Bucket(burst, now_s))
            self._buckets.move_to_end(name)
            if len(self._buckets) > self._max_buckets:
                self._buckets.popitem(last=False)
            bucket.tokens = min(burst, bucket.tokens + (now_s - bucket.filled_at_s) * per_second)
            bucket.filled_at_s = now_s
            missing = 1.0 - bucket.tokens
            if missing > 1e-9:
                return missing / per_second
            bucket.tokens -= 1.0
            return 0.0

    def __len__(self) -> int:
        return len(self._buckets)


@dataclass(frozen=True)
class RateRules:
    """0 is no limit."""

    requests_per_second: float = 0.0
    base_synthesis_per_second: float = 0.0


class RateLimits:
    """Each method lets one request through or raises Throttled, which says when to come back."""

    def __init__(self, rules: RateRules, buckets: TokenBuckets | None = None) -> None:
        self._rules = rules
        self._buckets = TokenBuckets() if buckets is None else buckets

    def take_request(self, key: ApiKey) -> None:
        """One request of any kind; the middleware asks for HTTP.

        Raises: Throttled
        """
        self._take("requests", (str(key.key_id),), self._rules.requests_per_second)

    def take_synthesis(self, key: ApiKey, deployment: Deployment) -> None:
        """One request to speak: the base model has a rate per workspace. What a deployment limits, its router does.

        Raises: Throttled
        """
        if deployment.is_builtin:
            name = (deployment.deployed_model, key.workspace_id)
            self._take("base_synthesis", name, self._rules.base_synthesis_per_second)

    def _take(self, limit: str, name: tuple[str, ...], per_second: float) -> None:
        if not per_second:
            return
        wait_s = self._buckets.take((limit, *name), per_second, max(1.0, per_second))
        if wait_s:
            metrics.throttled.labels(limit).inc()
            raise Throttled(retry_after_s=wait_s)
