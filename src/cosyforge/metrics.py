"""The Prometheus metrics of the server, in one place; whoever does the work counts it, `/metrics` shows it.

Labels are bounded: routes are templates, models are deployments, codes are the contract's.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

registry = CollectorRegistry()

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_FIRST_PACKAGE_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 3, 5, 10, 30)
_RTF = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5)

http_requests = Counter(
    "cosyforge_http_requests", "HTTP requests answered", ("method", "route", "status"), registry=registry
)
http_seconds = Histogram(
    "cosyforge_http_request_seconds",
    "From the request's arrival to the end of its answer",
    ("method", "route"),
    buckets=_LATENCY_S,
    registry=registry,
)
sockets = Gauge("cosyforge_websockets", "Open WebSocket connections", registry=registry)

synthesis_requests = Counter(
    "cosyforge_synthesis_requests", "Requests to speak that ended", ("model", "transport", "code"), registry=registry
)
synthesis_characters = Counter(
    "cosyforge_synthesis_characters", "Counted characters spoken", ("model",), registry=registry
)
synthesis_in_flight = Gauge(
    "cosyforge_synthesis_in_flight", "Requests to speak being worked on", ("model",), registry=registry
)
first_package_seconds = Histogram(
    "cosyforge_first_package_seconds",
    "From the first text to the first sound",
    ("model", "transport"),
    buckets=_FIRST_PACKAGE_S,
    registry=registry,
)
rtf = Histogram(
    "cosyforge_rtf", "Seconds of work per second of audio", ("model", "transport"), buckets=_RTF, registry=registry
)
synthesis_part_seconds = Histogram(
    "cosyforge_synthesis_part_seconds",
    "Where the time of a request went: queue, text, first_token, lm, flow, vocoder, encode",
    ("model", "part"),
    buckets=_LATENCY_S,
    registry=registry,
)
sentences_resampled = Counter(
    "cosyforge_sentences_resampled", "Sentences spoken again because a check failed", ("model",), registry=registry
)

jobs = Gauge("cosyforge_jobs", "Fine-tuning jobs by status", ("status",), registry=registry)
job_starts = Counter("cosyforge_job_starts", "Training workers started, also to go on after a crash", registry=registry)
jobs_ended = Counter("cosyforge_jobs_ended", "Fine-tuning jobs that ended", ("status",), registry=registry)

deployments = Gauge("cosyforge_deployments", "Deployments by status", ("status",), registry=registry)
replicas_ready = Gauge("cosyforge_replicas_ready", "Replicas that answer", ("model",), registry=registry)
replica_starts = Counter("cosyforge_replica_starts", "Replica processes started", ("model",), registry=registry)

throttled = Counter("cosyforge_throttled", "Requests refused for their rate or number", ("limit",), registry=registry)
uploaded_bytes = Counter("cosyforge_uploaded_bytes", "Bytes taken in by uploads", registry=registry)
loop_healthy = Gauge(
    "cosyforge_background_loop_healthy",
    "1 when the last step of a background thread worked",
    ("loop",),
    registry=registry,
)
