"""What `/metrics` shows: the statistics of one machine, as Prometheus' text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from proxy.audio.codec import KNOWN
from proxy.audio.counters import Passed

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `render` returns."""

Stats = Mapping[str, Any]
"""The JSON of `/stats`."""


@dataclass(frozen=True)
class Family:
    """One metric: what it is called, what it means, and where its values stand in `/stats`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Stats], Any]
    """The value; a histogram's as `/stats` has it. With labels: pairs of their values and that."""
    labels: tuple[str, ...] = ()
    known: tuple[tuple[str, ...], ...] = ()
    """Label values that are shown from the start, as 0: Prometheus cannot see what rises from
    nothing."""

    def collect(self, stats: Stats) -> Metric:
        """Its values in `stats`."""
        found = self.read(stats)
        values: Iterable[tuple[tuple[str, ...], Any]] = found if self.labels else [((), found)]
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(self.name, self.help, labels=self.labels)
            for labels, value in values:
                bounds = [*map(floatToGoString, value["le"]), "+Inf"]
                buckets = list(zip(bounds, accumulate(value["counts"]), strict=True))
                histogram.add_metric(labels, buckets, value["sum"])
            return histogram
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = make(self.name, self.help, labels=self.labels)
        for labels, value in {**dict.fromkeys(self.known, 0), **dict(values)}.items():
            family.add_metric(labels, value)
        return family


def _at(key: str) -> Callable[[Stats], Any]:
    """The value of `key`."""
    return lambda stats: stats[key]


def _by(key: str) -> Callable[[Stats], Iterator[tuple[tuple[str], Any]]]:
    """The values under `key`, which say by their names what they are of."""
    return lambda stats: (((name,), value) for name, value in stats[key].items())


def _of(key: str, figure: str) -> Callable[[Stats], Iterator[tuple[tuple[str], Any]]]:
    """One figure of each of the records under `key`."""
    return lambda stats: (((name,), record[figure]) for name, record in stats[key].items())


def _tunnels(stats: Stats) -> Iterator[tuple[tuple[str, str], int]]:
    for algorithm, count in stats["open"].items():
        yield (algorithm, "false" if algorithm == "none" else "true"), count


def _chunks(stats: Stats) -> Iterator[tuple[tuple[str, str], int]]:
    for algorithm, outcomes in stats["chunks"].items():
        for outcome, count in outcomes.items():
            yield (algorithm, outcome), count


def _store(stats: Stats) -> Iterator[tuple[tuple[str], bool]]:
    yield (stats["store"]["kind"],), stats["store"]["state"] == "connected"


_ALGORITHM, _ALGORITHMS = ("algorithm",), tuple((name,) for name in KNOWN)
_FORMAT = ("format",)
_ENDS = ("client", "backend", "proxy")
_RESULTS = (
    *("opted_in", "switched", "declined", "bad_gateway", "timeout", "refused", "bad_request"),
    "client_gone",
)
_OUTCOMES = (
    *((name, each) for name in KNOWN for each in ("compressed", "no_gain", "error", "shadow")),
    *(("none", each.value) for each in Passed),
)

FAMILIES: tuple[Family, ...] = (
    # Who is served.
    Family(
        "audio_proxy_tunnels_open",
        "gauge",
        "WebSockets open now, by the first algorithm that their client asked for; none: it did "
        "not opt in.",
        _tunnels,
        ("algorithm", "opted_in"),
    ),
    Family(
        "audio_proxy_connections_open",
        "gauge",
        "Client connections open now: WebSockets, handshakes and plain HTTP.",
        _at("connections"),
    ),
    Family(
        "audio_proxy_handshakes_total",
        "counter",
        "WebSocket handshakes: opted_in and switched (accepted, with opting in and without), "
        "declined (by the backend), bad_gateway, timeout, refused, bad_request, client_gone.",
        _by("handshakes"),
        ("result",),
        tuple((result,) for result in _RESULTS),
    ),
    Family(
        "audio_proxy_refused_total",
        "counter",
        "Requests refused because max_connections were open.",
        _at("refused"),
    ),
    Family(
        "audio_proxy_closed_total",
        "counter",
        "WebSockets that have ended, by who ended them: client, backend, proxy.",
        _by("closed_by"),
        ("by",),
        tuple((end,) for end in _ENDS),
    ),
    Family(
        "audio_proxy_close_codes_total",
        "counter",
        "WebSockets that have ended, by close code; 1006: without one, 3xxx and 4xxx: all codes "
        "of libraries and applications together.",
        _by("close_codes"),
        ("code",),
    ),
    # What is saved.
    Family(
        "audio_proxy_wire_original_bytes_total",
        "counter",
        "Everything sent on opted-in WebSockets, frame headers included, had nothing been "
        "compressed.",
        _at("wire_original_bytes"),
    ),
    Family(
        "audio_proxy_wire_bytes_total",
        "counter",
        "Everything sent on opted-in WebSockets, frame headers and metadata included.",
        _at("wire_bytes"),
    ),
    Family(
        "audio_proxy_shadow_saved_bytes_total",
        "counter",
        "What of audio_proxy_wire_bytes_total would have been saved, had shadow been off.",
        _at("shadow_saved_bytes"),
    ),
    Family(
        "audio_proxy_audio_original_bytes_total",
        "counter",
        "Payloads of the chunks that were sent compressed, as the backend sent them.",
        _of("by_algorithm", "total_original_bytes"),
        _ALGORITHM,
        _ALGORITHMS,
    ),
    Family(
        "audio_proxy_audio_compressed_bytes_total",
        "counter",
        "Payloads of the chunks that were sent compressed, as they were sent.",
        _of("by_algorithm", "total_compressed_bytes"),
        _ALGORITHM,
        _ALGORITHMS,
    ),
    Family(
        "audio_proxy_format_original_bytes_total",
        "counter",
        "As audio_proxy_audio_original_bytes_total, by the format of what the backend sent.",
        _of("by_format", "total_original_bytes"),
        _FORMAT,
    ),
    Family(
        "audio_proxy_format_compressed_bytes_total",
        "counter",
        "As audio_proxy_audio_compressed_bytes_total, by the format of what the backend sent.",
        _of("by_format", "total_compressed_bytes"),
        _FORMAT,
    ),
    Family(
        "audio_proxy_format_chunks_total",
        "counter",
        "Chunks that were sent compressed, by the format of what the backend sent.",
        _of("by_format", "total_compressed"),
        _FORMAT,
    ),
    Family(
        "audio_proxy_chunks_total",
        "counter",
        "Chunks on opted-in WebSockets: compressed, no_gain, error, shadow; none was tried "
        "(algorithm none): too_small, disabled, resting (nothing gained lately), other.",
        _chunks,
        ("algorithm", "outcome"),
        _OUTCOMES,
    ),
    # What it costs.
    Family(
        "audio_proxy_encode_seconds",
        "histogram",
        "Time that the encoding of a chunk took.",
        _at("encode_seconds"),
    ),
    Family(
        "audio_proxy_first_audio_seconds",
        "histogram",
        "Time from the backend's first byte of audio to ours, once for each opted-in WebSocket.",
        _at("first_audio_seconds"),
    ),
    Family(
        "audio_proxy_gap_seconds",
        "histogram",
        "Time between two times at which an opted-in client was sent something.",
        _at("gap_seconds"),
    ),
    Family(
        "audio_proxy_backlog_bytes",
        "gauge",
        "Bytes that wait here to be sent, to clients and to the backend.",
        _at("backlog_bytes"),
    ),
    Family(
        "audio_proxy_pauses_total",
        "counter",
        "How often a side was read no further because the other was slow to take what it sent.",
        _at("pauses"),
    ),
    # The flags, and where they are kept.
    Family(
        "audio_proxy_flags_revision",
        "gauge",
        "Revision of the flags in force.",
        _at("flags_revision"),
    ),
    Family(
        "audio_proxy_flags_rejected",
        "gauge",
        "Whether stored flags are not in force, because they are wrong or cannot be read: 1 or 0.",
        lambda stats: stats["flags_error"] is not None,
    ),
    Family(
        "audio_proxy_flags_min_size_bytes",
        "gauge",
        "The flag min_size: smaller chunks are sent as they are.",
        _at("min_size_threshold"),
    ),
    Family(
        "audio_proxy_store_connected",
        "gauge",
        "Whether the flags' store can be asked, 1 or 0; kind is file or redis.",
        _store,
        ("kind",),
    ),
    # The processes.
    Family(
        "audio_proxy_workers",
        "gauge",
        "Worker processes, those included that drain.",
        lambda stats: len(stats["workers"]),
    ),
    Family(
        "audio_proxy_workers_draining",
        "gauge",
        "Worker processes that take no new connections and end after their last.",
        lambda stats: sum(worker["draining"] for worker in stats["workers"]),
    ),
    Family(
        "audio_proxy_worker_restarts_total",
        "counter",
        "Workers that died and were replaced.",
        _at("worker_restarts"),
    ),
    Family(
        "audio_proxy_uptime_seconds",
        "gauge",
        "Time since the proxy was started.",
        _at("uptime_seconds"),
    ),
    Family(
        "audio_proxy_build_info",
        "gauge",
        "1, with the version of the proxy.",
        lambda stats: [((stats["version"],), 1)],
        ("version",),
    ),
)
"""All of them, in the order in which they are shown."""


class _Machine(Collector):
    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            yield family.collect(self._stats)


def render(stats: Stats) -> bytes:
    """The text of `/metrics`, from the JSON that `/stats` shows of this machine alone."""
    registry = CollectorRegistry()
    registry.register(_Machine(stats))
    return generate_latest(registry)
