"""Prometheus metrics of one server: requests, queue, times, tokens, cache, calls.

Each server has a registry of its own. Labels come from a bounded set: functions that clients name beyond the
first ones are counted together, so that nobody can grow the metrics without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from multimodal_ai.inference.requests import Reply
from multimodal_ai.inference.scheduler import Handle, Scheduler

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
NAMED_FUNCTIONS = 64


def http_counter(registry: CollectorRegistry) -> Counter:
    """Counts HTTP requests by path and status."""
    return Counter("multimodal_ai_http_requests", "HTTP requests", ["path", "status"], registry=registry)


class ServerMetrics:
    """What is measured; `known_functions` are always counted by name."""

    def __init__(self, scheduler: Scheduler, known_functions: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        prefix, registry = "multimodal_ai_", self.registry
        self.http = http_counter(registry)
        self.requests = Counter(prefix + "replies", "Replies by how they ended", ["outcome"], registry=registry)
        self.first_token = Histogram(
            prefix + "time_to_first_token_seconds",
            "From the queue to the first piece of a reply",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            prefix + "reply_seconds", "From the queue to the end of a reply", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter(prefix + "tokens", "Tokens read and written", ["kind"], registry=registry)
        self.speed = Histogram(
            prefix + "tokens_per_second",
            "Tokens of one reply, forced ones included, by the time from its first piece to its end",
            buckets=(10, 25, 50, 100, 200, 400, 800, 1600, 3200),
            registry=registry,
        )
        self.calls = Counter(
            prefix + "function_calls", "Calls by function and outcome", ["function", "outcome"], registry=registry
        )
        self.images = Counter(prefix + "images", "Images received", registry=registry)
        for name, text, read in (
            ("queue_length", "Replies that wait", lambda: scheduler.waiting),
            ("running", "Replies that are being written", lambda: scheduler.running),
            ("cache_bytes", "Bytes kept of images, cards and conversations", lambda: scheduler.engine.cache.bytes),
        ):
            Gauge(prefix + name, text, registry=registry).set_function(read)
        self.registry.register(_CacheCounters(scheduler))
        self._functions = set(known_functions)
        self._limit = len(self._functions) + NAMED_FUNCTIONS

    def observe(self, handle: Handle, reply: Reply | None) -> None:
        """Count one reply, complete or not."""
        if reply is None:
            self.requests.labels("cancelled" if handle.cancelled else "failed").inc()
            return
        self.requests.labels(reply.finish_reason).inc()
        self.tokens.labels("prompt").inc(reply.usage["prompt_tokens"])
        self.tokens.labels("completion").inc(reply.usage["completion_tokens"])
        if handle.first_token is not None and handle.ended is not None:
            self.first_token.observe(handle.first_token - handle.submitted)
            self.duration.observe(handle.ended - handle.submitted)
            if handle.ended > handle.first_token:
                self.speed.observe(reply.usage["completion_tokens"] / (handle.ended - handle.first_token))
        for call in reply.calls:
            self.call(call.name, "proposed")

    def call(self, function: str, outcome: str) -> None:
        """Count one call."""
        if function not in self._functions and len(self._functions) < self._limit:
            self._functions.add(function)
        self.calls.labels(function if function in self._functions else "other", outcome).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _CacheCounters:
    """Hits and misses as the engine's cache counts them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._cache = scheduler.engine.cache

    def collect(self) -> Iterator[Metric]:
        for name, counts in (("hits", self._cache.hits), ("misses", self._cache.misses)):
            family = CounterMetricFamily(f"multimodal_ai_cache_{name}", f"Cache {name} by kind", labels=["kind"])
            for kind, count in dict(counts).items():
                family.add_metric([kind], count)
            yield family


def merged_text(registry: CollectorRegistry, texts: Mapping[str, str]) -> bytes:
    """What a registry holds and the metrics of replicas (text by name), these with a label `replica`."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known.samples += [
                sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples
            ]
    both = CollectorRegistry()
    for metric in registry.collect():
        families[metric.name] = metric  # the front's own counts stand for what it decides itself
    both.register(_Families(families.values()))
    return generate_latest(both)


class _Families:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
