"""The benchmark measures what it says: its correctness, not its figures."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import math
import os
import select
import shutil
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.bench import crowd, measure
from tests.bench.__main__ import app
from tests.bench.accounting import cpu_seconds, family, resident_bytes
from tests.bench.criteria import Criterion, criteria
from tests.bench.crowd import Attempt
from tests.bench.load import Block, FullError, Load, LoadError, Speaker
from tests.bench.measure import (
    Bulk,
    Codec,
    Crowd,
    Handshakes,
    Memory,
    Paced,
    Speech,
    Workers,
    quantile,
)
from tests.bench.peers import MODES, Mode, Peer
from tests.bench.report import to_nginx
from tests.bench.results import (
    DIRECT,
    ONE_WORKER,
    PROXY,
    TWO_WORKERS,
    Results,
    added,
    better_nginx,
    ratio,
)
from tests.bench.run import QUICK, USUAL, Plan
from tests.support import pcm, until

_ROOT = Path(__file__).parents[2]
_NAMES = [mode.name for mode in MODES]
_THROUGH = [name for name in _NAMES if name != DIRECT]
_SIZE = QUICK.sizes[0]
_SPEAKING = QUICK.paced[0]

# Burns CPU, says how much that was, and waits to be told to end.
_BUSY = """
import resource, time
while time.process_time() < 0.2: pass
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, flush=True)
input()
"""


def _run_here(command: list[str]) -> Result:
    """The bench in this process, which it binds to a core."""
    allowed = os.sched_getaffinity(0)
    try:
        return CliRunner().invoke(app, command)
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one quick run wrote; its pictures are beside it."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "tests.bench", "--quick", "--json", str(folder / "all.json")]
    command += ["--plot", str(folder / "all.png"), "--plot", str(folder / "all.svg")]
    ran = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert "Criteria" in ran.stdout
    assert (folder / "all.png").read_bytes().startswith(b"\x89PNG")
    assert "Memory of the proxy per connection" in (folder / "all.svg").read_text()
    record: dict[str, Any] = json.loads((folder / "all.json").read_text())
    return record


class TestQuick:
    def test_every_mode_of_every_kind_is_measured_in_every_round(
        self, quick: dict[str, Any]
    ) -> None:
        rounds = quick["rounds"]
        measured = {
            "bulk": rounds["bulk"][str(_SIZE)],
            "paced": rounds["paced"][str(_SPEAKING)],
            "memory": rounds["memory"],
            "handshakes": rounds["handshakes"],
            "workers": rounds["workers"],
        }
        assert set(measured) == set(USUAL)
        for kind, by_mode in measured.items():
            names = {"memory": _THROUGH, "workers": [ONE_WORKER, TWO_WORKERS]}
            assert list(by_mode) == names.get(kind, _NAMES)
            expected = QUICK.memory_rounds if kind == "memory" else QUICK.rounds
            assert {len(found) for found in by_mode.values()} == {expected}
        assert len(rounds["codec"][str(_SIZE)]) == len(rounds["paced_codec"]) == QUICK.rounds

    def test_bulk_is_consistent(self, quick: dict[str, Any]) -> None:
        for name, found in quick["rounds"]["bulk"][str(_SIZE)].items():
            for one in found:
                assert one["messages"] > 0
                assert one["megabytes_per_second"] == pytest.approx(
                    one["per_second"] * _SIZE / 1e6, rel=1e-3
                )
                assert (one["cpu_us"] > 0) == (name != DIRECT)
                assert one["busy"] == pytest.approx(
                    one["cpu_us"] * one["per_second"] / 1e6, rel=0.01, abs=1e-3
                )

    def test_speech_is_consistent(self, quick: dict[str, Any]) -> None:
        for name, found in quick["rounds"]["paced"][str(_SPEAKING)].items():
            for one in found:
                assert one["chunks"] >= QUICK.paced_chunks
                assert 0 < one["p50_us"] <= one["p99_us"] <= one["p999_us"]
                assert (one["cpu_us"] > 0) == (name != DIRECT)
                assert one["load_busy"] > 0

    def test_memory_and_handshakes_are_counted(self, quick: dict[str, Any]) -> None:
        for found in quick["rounds"]["memory"].values():
            assert all(one["idle"] > 0 for one in found)
        for name, found in quick["rounds"]["handshakes"].items():
            for one in found:
                assert one["count"] == QUICK.handshakes
                assert one["per_second"] > 0
                assert (one["cpu_us"] > 0) == (name != DIRECT)

    def test_the_cpu_of_all_workers_is_counted(self, quick: dict[str, Any]) -> None:
        for name, found in quick["rounds"]["workers"].items():
            for one in found:
                assert one["messages"] > 0
                assert one["cpu_us"] > 0
                assert one["busy"] == pytest.approx(
                    one["cpu_us"] * one["per_second"] / 1e6, rel=0.01, abs=1e-3
                )
                assert (one["least"] == 1) == (name == ONE_WORKER)
        assert quick["medians"]["workers"][ONE_WORKER]["cpu_to_one"] == 1

    def test_medians_are_those_of_the_rounds(self, quick: dict[str, Any]) -> None:
        rounds = quick["rounds"]["paced"][str(_SPEAKING)]
        medians = quick["medians"]["paced"][str(_SPEAKING)]
        for name in _NAMES:
            pairs = zip(rounds[name], rounds[DIRECT], strict=True)
            differences = [one["p50_us"] - direct["p50_us"] for one, direct in pairs]
            expected = statistics.median(differences)
            assert medians[name]["added_p50_us"] == pytest.approx(expected, abs=0.001)
        assert medians[DIRECT]["added_p50_us"] == 0
        assert medians[DIRECT]["cpu_to_nginx"] is None
        compared = [medians[name]["cpu_to_nginx"] for name in ("nginx", "nginx 64k")]
        assert 1 in compared

    def test_criteria_follow_from_what_was_measured(self, quick: dict[str, Any]) -> None:
        points = {one["point"] for one in quick["criteria"]}
        assert points == {"1", "2", "3", "4", "6", "-"}
        for one in quick["criteria"]:
            sign = 1 if one["at_least"] else -1
            assert one["is_met"] == (
                one["measured"] is not None and sign * (one["measured"] - one["limit"]) >= 0
            )

    def test_says_where_it_was_measured(self, quick: dict[str, Any]) -> None:
        machine = quick["machine"]
        assert machine["cores"] >= 2
        assert machine["python"] == sys.version.split()[0]
        assert "nginx/" in machine["peers"]["nginx"]
        assert "HAProxy" in machine["peers"]["haproxy"]
        assert machine["packages"]["aiohttp"]
        assert quick["plan"]["rounds"] == QUICK.rounds


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small crowd, and a low ceiling."""
    folder = tmp_path_factory.mktemp("crowd")
    command = [sys.executable, "-m", "tests.bench", "--quick", "--json", str(folder / "all.json")]
    command += ["--only", "crowd", "--only", "ceiling", "--plot", str(folder / "all.svg")]
    ran = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert "A crowd: 60 connections, 20 of them" in ran.stdout
    assert "60 connections, 20 of them speak" in (folder / "all.svg").read_text()
    record: dict[str, Any] = json.loads((folder / "all.json").read_text())
    return record


class TestCrowd:
    def test_a_crowd_is_listened_to_and_weighed(self, few: dict[str, Any]) -> None:
        crowd = few["rounds"]["crowd"]
        assert (crowd["connections"], crowd["speaking"]) == (QUICK.crowd, QUICK.crowd_speaking)
        assert crowd["chunks"] >= 2 * QUICK.crowd_speaking
        for way in ("", "direct_"):
            p50, p99, p999 = (crowd[f"{way}{name}_us"] for name in ("p50", "p99", "p999"))
            assert 0 < p50 <= p99 <= p999
        assert crowd["cpu_us"] > 0
        assert len(crowd["memory"]) == 8
        assert crowd["settled"] == 2
        assert min(crowd["memory"]) > 1_000_000
        assert [one["point"] for one in few["criteria"]] == ["5", "5", "-", "-"]

    def test_every_mode_of_ours_has_a_ceiling(self, few: dict[str, Any]) -> None:
        ceilings = few["rounds"]["ceiling"]
        assert list(ceilings) == [mode.name for mode in MODES if mode.peer == PROXY]
        for found in ceilings.values():
            assert 0 <= found["speaking"] <= QUICK.ceiling
            assert found["ended_by"] in ("untried", "core", "latency", "load")
            if found["speaking"]:
                expected = 0.95e6 / found["cpu_us"] * 4096 / 48_000
                assert found["by_cpu"] == pytest.approx(expected, rel=1e-3)

    async def test_who_is_silent_and_let_go_is_an_error(self) -> None:
        async with Load() as load:
            pair = await load.open(load.port)
            crowd.check_silent(pair)
            pair.server.close()
            await until(lambda: _is_readable(pair.client))
            with pytest.raises(LoadError, match="closed who was silent"):
                crowd.check_silent(pair)
            pair.close()

    @pytest.mark.parametrize(
        ("room", "held"), [(0, 0), (3, 0), (5, 5), (7, 7), (1000, 1000), (1039, 1016)]
    )
    async def test_the_ceiling_is_found_to_a_sixteenth(self, room: int, held: int) -> None:
        tried = []

        async def attempt(speakers: int) -> Attempt:
            tried.append(speakers)
            return Attempt(speakers, 100, 50, 0.94 if speakers <= room else 0.96, 0.1)

        found = await crowd.ceiling(attempt, 9000, 4096)
        assert found.ended_by == "core"
        assert room - max(1, room // 16) < found.speaking <= room or room < 5
        assert len(tried) < 30

    async def test_a_ceiling_is_not_lowered_by_one_that_fails_by_chance(self) -> None:
        tried: list[int] = []

        async def attempt(speakers: int) -> Attempt:
            tried.append(speakers)
            return Attempt(speakers, 30_000 if len(tried) == 2 else 100, 50, 0.5, 0.1)

        found = await crowd.ceiling(attempt, 10, 4096)
        assert (found.speaking, found.ended_by) == (10, "untried")
        assert tried == [5, 10, 10]

    @pytest.mark.parametrize(
        ("found", "problem"),
        [
            (Attempt(1, 20_000, 1, 0.94, 0.79), None),
            (Attempt(1, 20_001, 1, 0.94, 0.79), "latency"),
            (Attempt(1, math.inf, math.nan, 0.5, 0.8), "load"),
            (Attempt(1, math.inf, math.nan, 0.95, 0.9), "core"),
        ],
    )
    def test_why_no_more_are_held(self, found: Attempt, problem: str | None) -> None:
        assert found.fails_by == problem


def _is_readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


class TestAccounting:
    def test_counts_what_a_child_says_it_took(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            said = float(child.stdout.readline())
            counted = cpu_seconds(child.pid)
            assert resident_bytes(child.pid) > 1_000_000
            child.communicate(b"\n")
        assert said >= 0.2
        assert counted == pytest.approx(said, abs=0.05)

    def test_counts_the_children_of_a_child(self) -> None:
        command = f"{sys.executable} -c '{_BUSY}'; true"
        with subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as shell:
            assert shell.stdout is not None
            said = float(shell.stdout.readline())
            assert len(family(shell.pid)) == 2
            counted = cpu_seconds(shell.pid)
            shell.communicate(b"\n")
        assert counted == pytest.approx(said, abs=0.05)


class TestLoad:
    def test_a_block_is_whole_messages(self) -> None:
        block = Block.of(bytes(range(256)), 1000)
        messages = block.messages()
        assert b"".join(messages) == block.wire
        assert block.ends[-1] == len(block.wire)
        assert all(message[:4] == b"\x82\x7e\x03\xe8" for message in messages)
        assert b"".join(message[4:] for message in messages[:2]) == (bytes(range(256)) * 8)[:2000]

    async def test_what_is_sent_arrives_and_is_counted(self) -> None:
        async with Load() as load:
            peer = Peer(DIRECT, load.port, 0)
            found = await measure.bulk(load, peer, MODES[0], Block.of(pcm(), 1000), 0.01, 2)
        assert found.messages > 0
        assert found.cpu_us == found.busy == 0

    async def test_no_more_is_sent_than_the_pace_allows(self) -> None:
        mode = dataclasses.replace(MODES[0], pace=0.1)
        async with Load() as load:
            peer = Peer(DIRECT, load.port, 0)
            found = await measure.bulk(load, peer, mode, Block.of(pcm(), 1000), 1, 2)
        assert found.messages == 2 * math.ceil(50_000 / 1004)

    async def test_a_peer_that_closes_is_an_error(self) -> None:
        async with Load() as load:
            pair = await load.open(load.port)
            speaker = Speaker(pair, Block.of(pcm(), 1000), 60)
            speaker.start(0)
            pair.server.close()
            with pytest.raises(LoadError, match="closed"):
                await speaker.done
            pair.close()

    async def test_more_than_was_said_is_an_error(self) -> None:
        async with Load() as load:
            pair = await load.open(load.port)
            block = Block.of(pcm(), 1000)
            speaker = Speaker(pair, block, 60)
            speaker.start(0)
            pair.server.send(block.wire[:5020])
            with pytest.raises(LoadError, match="more was heard"):
                await speaker.done
            pair.close()

    async def test_speech_that_is_not_taken_is_an_error(self) -> None:
        async with Load() as load:
            pair = await load.open(load.port)
            block = Block.of(pcm(), 65536)
            speaker = Speaker(pair, block, 0)
            speaker.start(0)
            asyncio.get_running_loop().remove_reader(pair.client)  # it does not listen
            with pytest.raises(FullError):
                await speaker.done
            pair.close()


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 3), (0.99, 4), (1, 4)])
def test_quantile(share: float, expected: float) -> None:
    assert quantile([1, 2, 3, 4], share) == expected


def _bulk(cpu_us: float, per_second: float = 1000, busy: float = 1) -> list[Bulk]:
    return [Bulk(10, per_second, 1, cpu_us * jitter, busy) for jitter in (0.9, 1, 5)]


def _paced(p50: float, p99: float, cpu_us: float, load_busy: float = 0.1) -> list[Paced]:
    return [Paced(10, at + p50, at + p99, 0, cpu_us, load_busy) for at in (50, 60, 900)]


@pytest.fixture
def made_up() -> Results:
    """All criteria are met, each at about its limit."""
    return Results(
        bulk={
            4096: {
                "nginx": _bulk(12),
                "nginx 64k": _bulk(10),
                "audio-proxy": _bulk(9.9),
                "audio-proxy gzip": _bulk(41),
            }
        },
        codec={4096: [Codec(10, 30)]},
        paced={
            20: {
                DIRECT: _paced(0, 0, 0),
                "nginx": _paced(100, 200, 90),
                "nginx 64k": _paced(120, 200, 100),
                "audio-proxy": _paced(149, 249, 107),
                "audio-proxy gzip": _paced(179, 400, 158),
            }
        },
        paced_codec=[Codec(10, 30)],
        memory={
            "audio-proxy": [Memory(4.9 * 1024, 47 * 1024, 200)],
            "audio-proxy gzip": [Memory(7.9 * 1024, 47 * 1024, 200)],
        },
        handshakes={
            "nginx": [Handshakes(10, 100, 70)],
            "audio-proxy": [Handshakes(10, 100, 209)],
        },
        workers={
            ONE_WORKER: [Workers(10, 100, 30, 1, 1)],
            TWO_WORKERS: [Workers(20, 200, 32.9, 2, 0.5)],
        },
        crowd=_crowd(20_099, 101_900_000),
    )


def _crowd(p99: float, most: int) -> Crowd:
    memory = (90_000_000, 95_000_000, 100_000_000, most, 99_000_000)
    shares = (0.5, 0.5, 0.05, 0.05)
    return Crowd(8000, 400, 10, 200, p99, 0, 50, 100, 0, 60, *shares, 1, memory, 2)


def _missed(results: Results) -> list[str]:
    return [one.name for one in criteria(results) if not one.is_met]


class TestCriteria:
    def test_what_keeps_its_limit_is_met(self, made_up: Results) -> None:
        assert len(criteria(made_up)) == 20
        assert _missed(made_up) == []

    def test_bulk(self, made_up: Results) -> None:
        made_up.bulk[4096]["audio-proxy"] = _bulk(10.1, per_second=999, busy=0.94)
        assert _missed(made_up) == [
            "bulk 4,096 B: CPU per message ÷ nginx 64k",
            "bulk 4,096 B: messages per second ÷ nginx 64k",
            "bulk 4,096 B: share of its core that audio-proxy takes",
        ]

    def test_gzip(self, made_up: Results) -> None:
        made_up.bulk[4096]["audio-proxy gzip"] = _bulk(42)
        made_up.paced[20]["audio-proxy gzip"] = _paced(181, 400, 159)
        assert _missed(made_up) == [
            "bulk 4,096 B, gzip: CPU per chunk; bare + 1.2 of own pass-through",
            "paced 20, gzip: CPU per chunk; bare + 1.2 of own pass-through",
            "paced 20, gzip: added latency p50 - nginx",
        ]

    def test_speech(self, made_up: Results) -> None:
        made_up.paced[20]["audio-proxy"] = _paced(151, 251, 109, load_busy=0.51)
        assert _missed(made_up) == [
            "paced 20: CPU per chunk ÷ nginx",
            "paced 20: added latency p50 - nginx",
            "paced 20: added latency p99 ÷ nginx",
            "paced 20: share of its core that the load takes, at most",
        ]

    def test_memory_and_handshakes(self, made_up: Results) -> None:
        made_up.memory["audio-proxy"] = [Memory(5.1 * 1024, 49 * 1024, 200)]
        made_up.memory["audio-proxy gzip"] = [Memory(8.1 * 1024, 49 * 1024, 200)]
        made_up.handshakes["audio-proxy"] = [Handshakes(10, 100, 211)]
        assert _missed(made_up) == [
            "audio-proxy: memory per idle connection",
            "audio-proxy: memory per speaking connection",
            "audio-proxy gzip: memory per idle connection",
            "audio-proxy gzip: memory per speaking connection",
            "CPU per handshake ÷ nginx",
        ]

    def test_crowd_and_workers(self, made_up: Results) -> None:
        noisy = _crowd(20_101, 102_100_000)
        made_up.crowd = dataclasses.replace(noisy, load_busy=0.51, waited=0.06)
        assert made_up.crowd.growth_bytes == 2_100_000
        made_up.workers[TWO_WORKERS] = [Workers(20, 200, 33.1, 2, 0.5)]
        assert _missed(made_up) == [
            "crowd of 8,000, 400 speaking: added latency p99",
            "crowd of 8,000, 400 speaking: growth of memory from 2 s on",
            "two workers, gzip in bulk: CPU per chunk ÷ one worker's",
            "crowd: share of its core that the load takes",
            "crowd: share of the time that the proxy or the load waited for its core, at most",
        ]

    def test_what_cannot_be_compared_is_missed(self) -> None:
        assert not Criterion("1", "", math.nan, 1).is_met
        assert not Criterion("1", "", math.nan, 1, at_least=True).is_met

    def test_nothing_is_asked_of_what_was_not_measured(self, made_up: Results) -> None:
        assert criteria(Results()) == []
        for name in ("nginx", "nginx 64k"):
            made_up.paced[20].pop(name)
        alone = Results(paced=made_up.paced, paced_codec=made_up.paced_codec)
        assert [one.point for one in criteria(alone)] == ["2", "-"]


class TestComparing:
    def test_ratios_are_of_the_same_round(self) -> None:
        ours = [Bulk(1, 1, 1, cpu, 1) for cpu in (1, 20, 300)]
        theirs = [Bulk(1, 1, 1, cpu, 1) for cpu in (2, 10, 150)]
        assert ratio(ours, theirs, "cpu_us") == 2

    def test_the_better_nginx_counts(self, made_up: Results) -> None:
        assert better_nginx(made_up.bulk[4096], "cpu_us") == "nginx 64k"
        assert better_nginx(made_up.paced[20], "cpu_us") == "nginx"
        assert to_nginx(made_up.bulk[4096], "nginx") == pytest.approx(1.2)

    def test_added_is_less_the_direct_way(self, made_up: Results) -> None:
        assert added(made_up.paced[20], "nginx", "p50_us") == [100, 100, 100]


class TestCommand:
    def test_a_missing_peer_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        ran = CliRunner().invoke(app, ["--quick"])
        assert ran.exit_code == 1
        assert "not installed: nginx, haproxy (Debian: apt-get install" in ran.output

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--sizes", "1k"),
            ("--sizes", "0"),
            ("--modes", "squid"),
            ("--only", "sleep"),
            ("--plot", "a.gif"),
            ("--only", "crowd", "--crowd", "10"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments: tuple[str, ...]) -> None:
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 2

    def test_what_fails_is_said_and_the_rest_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        rounds: list[str] = []
        handshakes = measure.handshakes

        async def lose(*_: object) -> Speech:
            raise LoadError("a chunk was lost")

        async def lose_one(load: Load, peer: Peer, mode: Mode, count: int) -> Handshakes:
            rounds.append(mode.name)
            if mode.name == "nginx" and rounds.count("nginx") == 2:
                raise TimeoutError
            return await handshakes(load, peer, mode, count)

        monkeypatch.setattr(measure, "speech", lose)
        monkeypatch.setattr(measure, "handshakes", lose_one)
        file = tmp_path / "all.json"
        command = ["--quick", "--modes", f"{DIRECT},nginx,{PROXY}", "--json", str(file)]
        command += ["--only", "paced", "--only", "handshakes", "--rounds", "3"]
        ran = _run_here(command)
        assert ran.exit_code == 1
        problem = f"paced, {_SPEAKING} connections: {DIRECT}: a chunk was lost"
        assert f"Failed: {problem} (nothing of paced is shown)" in ran.stdout
        assert "Failed: handshakes: nginx: too late" in ran.stdout
        found = json.loads(file.read_text())["rounds"]
        assert not found["paced"]
        assert {name: len(each) for name, each in found["handshakes"].items()} == {
            DIRECT: 3,
            PROXY: 3,
        }

    def test_who_fails_at_speech_pace_is_in_no_round(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        speech, heard = measure.speech, itertools.count(1)

        async def lose_one(peer: Peer, *rest: Any) -> Speech:
            if peer.name == "nginx" and next(heard) == 4:  # of two rounds with two turns each
                raise TimeoutError
            return await speech(peer, *rest)

        monkeypatch.setattr(measure, "speech", lose_one)
        file = tmp_path / "all.json"
        command = ["--quick", "--only", "paced", "--modes", f"nginx,{PROXY}", "--json", str(file)]
        ran = _run_here(command)
        assert ran.exit_code == 1
        assert f"Failed: paced, {_SPEAKING} connections: nginx: too late" in ran.stdout
        rounds = json.loads(file.read_text())["rounds"]["paced"][str(_SPEAKING)]
        assert {name: len(each) for name, each in rounds.items()} == {DIRECT: 2, PROXY: 2}

    def test_steps_are_counted(self) -> None:
        assert Plan(kinds=("memory",), memory_rounds=3).steps == 3 * len(_THROUGH)
        assert Plan(kinds=("workers", "crowd", "ceiling"), rounds=2).steps == 4 + 1 + 5
        paced = Plan(kinds=("paced",), modes=("nginx",), paced=(20, 200), rounds=1)
        assert paced.steps == 2 * (5 + 1) + 1  # 2,000 chunks of 20 are 8.5 s of speech
