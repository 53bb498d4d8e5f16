"""A real Redis server under what servers live through: lost replies, lost keys, full memory, forks, wrong kinds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.lease import Demand, Lease, LeaseState, Refusal, RefusalReason, ReleaseOutcome
from solver.load.store.redis import OutageCause, RedisStore
from solver.load.store.redis_server import script
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity
from tests.redis_server import RedisServer, free_port
from tests.service.recovery import still_holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def connect(namespace: str) -> Iterator[Callable[..., LoadTracker]]:
    """Return a function that makes trackers over Redis; their connections are closed at the end."""
    with contextlib.ExitStack() as stack:

        def build(url: Any, **options: Any) -> LoadTracker:
            store = RedisStore(
                url, **{"replicas": 1, "namespace": namespace, "timeout_s": 5.0, "retry_s": 1e-6, **options}
            )
            stack.callback(store.close)
            return LoadTracker(store=store)

        yield build


class Proxy:
    """Passes bytes on to a server; closes a connection instead of passing on the next replies."""

    def __init__(self, port: int) -> None:
        self.drop = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for source, target, is_reply in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pump, args=(source, target, is_reply), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if is_reply and self.drop:
                    self.drop -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(shared_server: RedisServer) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(shared_server.port)) as proxy:
        yield proxy


@pytest.fixture
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a server with options of its own."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path_factory.mktemp("redis"), options=options)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


def store_of(tracker: LoadTracker) -> RedisStore:
    assert isinstance(tracker.store, RedisStore)
    return tracker.store


def client_of(server: RedisServer) -> Any:
    return contextlib.closing(redis.Redis(port=server.port, socket_timeout=5))


# -- numbers and time


def test_less_used_than_estimated_is_settled_after_its_minute(
    shared_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    clock = ManualClock(1000.0)
    tracker = connect(shared_server.url, clock=clock)
    tracker.set_capacity("m", Capacity(max_concurrent=2), tokens_per_minute=10_000)
    a, b = (tracker.acquire("m", Demand(tokens=500), ttl_s=120) for _ in range(2))
    assert a is not None
    assert b is not None
    clock.advance(62)
    b.renew()
    assert a.release(tokens=310) is ReleaseOutcome.RELEASED
    assert a.release(tokens=310) is ReleaseOutcome.UNKNOWN
    assert tracker.snapshot().active.tolist() == [1]
    assert [isinstance(tracker.try_acquire("m"), Lease) for _ in range(2)] == [True, False]


def test_large_numbers_are_written_in_full(
    shared_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    tracker = connect(shared_server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=2**52), tokens_per_minute=2**53)
    lease = tracker.acquire("m", Demand(slots=2**52 - 1, tokens=2**53 - 1))
    assert lease is not None
    assert tracker.snapshot().active.tolist() == [2**52 - 1]
    lease.release(tokens=2**53 - 3)
    assert tracker.store.view().meter_used[1].tolist() == [2**53 - 3]
    tracker.update_load("m", 2**51)
    assert tracker.snapshot().active.tolist() == [2**51]


def test_a_step_of_the_servers_clock_neither_ends_leases_nor_freezes_them(
    shared_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    clock = ManualClock(1e9)  # stands for the server's
    tracker = connect(shared_server.url, clock=clock)
    tracker.set_capacity("m", Capacity(max_concurrent=2), requests_per_minute=3)
    leases = [tracker.acquire("m", ttl_s=60) for _ in range(2)]
    clock.seconds += 3600
    assert all(lease is not None and lease.state() is LeaseState.RUNNING for lease in leases)
    assert not tracker.try_acquire("m")
    clock.seconds -= 3600
    assert not tracker.try_acquire("m")
    for later_s in (120, 600, 3000):
        clock.seconds = 1e9 + later_s
        assert tracker.try_acquire("m", ttl_s=60)


# -- lost replies


def test_added_load_counts_once_when_a_reply_is_lost(
    proxy: Proxy, connect: Callable[..., LoadTracker]
) -> None:
    tracker = connect(proxy.url)
    tracker.set_capacity("m", Capacity(max_concurrent=10))
    tracker.update_load("m", 1)
    proxy.drop = 1
    tracker.update_load("m", 1)
    assert tracker.snapshot().active.tolist() == [2]


def test_a_client_that_repeats_by_itself_gets_the_answer_of_its_first_attempt(
    proxy: Proxy, connect: Callable[..., LoadTracker]
) -> None:
    class Repeating(redis.Redis):  # type: ignore[misc] # it has no types
        """Of a kind whose settings are not known: it is used as it is."""

    tracker = connect(Repeating.from_url(proxy.url, retry=Retry(NoBackoff(), 3)))
    tracker.set_capacity("m", Capacity(max_concurrent=2), requests_per_minute=9)
    for operation in (
        lambda: tracker.set_capacity("m", Capacity(max_concurrent=1), requests_per_minute=9),
        lambda: tracker.stop("m"),
        lambda: tracker.resume("m", "operator"),
    ):
        proxy.drop = 1
        operation()
    proxy.drop = 1
    assert isinstance(tracker.try_acquire("m"), Lease)
    assert tracker.snapshot().active.tolist() == [1]
    proxy.drop = 1
    assert tracker.end_leases("m") == 1
    proxy.drop = 1
    assert store_of(tracker).exchange("topic", "text", 9.0)


def test_a_client_is_the_callers_and_repeats_nothing_for_the_store(own_server: RedisServer) -> None:
    """What redis-py makes by default would repeat for two minutes where a server hangs."""
    with redis.Redis(port=own_server.port) as given:
        store = RedisStore(given, replicas=1, timeout_s=0.05)
        tracker = LoadTracker(store=store)
        tracker.set_capacity("m", Capacity(max_concurrent=1))
        with client_of(own_server) as client:
            client.client_pause(400)
        began = time.monotonic()
        assert not tracker.try_acquire("m")
        assert time.monotonic() - began < 0.35
        store.close()
        assert given.ping()


@pytest.mark.parametrize("lost", [1, 3])
def test_a_move_whose_reply_is_lost_leaves_nothing_behind(
    proxy: Proxy, connect: Callable[..., LoadTracker], lost: int
) -> None:
    tracker = connect(proxy.url)
    for model in ("a", "b"):
        tracker.set_capacity(model, Capacity(max_concurrent=2))
    lease = tracker.acquire("a", ttl_s=60)
    assert lease is not None
    proxy.drop = lost
    tracker.move(lease, "b")
    proxy.drop = 0
    assert lease.state() is LeaseState.RUNNING
    assert tracker.snapshot().active.tolist() == [int(lease.model == model) for model in ("a", "b")]
    lease.release()
    assert tracker.snapshot().active.tolist() == [0, 0]


def test_a_release_whose_reply_is_lost_has_released(
    proxy: Proxy, connect: Callable[..., LoadTracker]
) -> None:
    tracker = connect(proxy.url)
    tracker.set_capacity("a", Capacity(max_concurrent=2))
    lease = tracker.acquire("a")
    assert lease is not None
    proxy.drop = 1
    assert lease.release() is ReleaseOutcome.RELEASED


# -- what was set on purpose outlives the server's memory


def test_stops_and_added_load_survive_a_restart(
    own_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    tracker = connect(own_server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=4))
    tracker.stop("m", reason="maintenance")
    tracker.stop("m", "rule", name="lifted later")
    tracker.update_load("m", 3)
    tracker.resume("m", "rule")
    own_server.stop()
    tracker.update_load("m", -1)
    tracker.stop("m", "drain")  # said during the outage
    own_server.start()
    assert tracker.snapshot().active.tolist() == [2]
    assert [(stop.owner.value, stop.reason) for stop in tracker.stops("m")] == [
        ("operator", "maintenance"),
        ("drain", ""),
    ]


def test_what_another_replica_lifted_does_not_come_back(
    own_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    first, second = connect(own_server.url, replicas=2), connect(own_server.url, replicas=2)
    for tracker in (first, second):
        tracker.set_capacity("m", Capacity(max_concurrent=4))
    first.stop("m")
    second.resume("m")  # the first does not hear of it
    own_server.stop()
    own_server.start()
    first.snapshot()
    second.snapshot()
    assert first.stops("m") == ()


# -- lost keys, full memory, wrong servers


def test_any_lost_key_is_made_up_for(own_server: RedisServer, connect: Callable[..., LoadTracker]) -> None:
    """Each key in turn disappears: nothing raises, nothing leaks, and no slot is granted twice."""
    with client_of(own_server) as client:
        kinds = set()
        for turn in range(16):
            clock = ManualClock(1000.0)
            tracker = connect(own_server.url, namespace=f"lost-{turn}", clock=clock)
            tracker.set_capacity("m", Capacity(max_concurrent=2, max_queue=1), tokens_per_minute=100)
            tracker.set_capacity("n", Capacity(max_concurrent=2))
            held = [tracker.acquire("m", Demand(tokens=10), ttl_s=30) for _ in range(2)]
            waits = tracker.acquire("m", Demand(tokens=10), ttl_s=30, queue=True)
            keys = sorted(client.keys(f"solver:{{lost-{turn}}}:*"))
            if turn >= len(keys):
                break
            kinds.add(keys[turn].split(b":")[2])
            client.delete(keys[turn])
            assert not tracker.try_acquire("m", Demand(tokens=1))  # both slots are still taken
            assert tracker.try_acquire("n", ttl_s=5)
            for lease in held:
                assert lease is not None
                lease.renew(ttl_s=40)
            assert waits is not None
            waits.release(tokens=0)
            assert not tracker.try_acquire("m", Demand(tokens=1))
            clock.advance(100)
            assert tracker.snapshot().active.tolist() == [0, 0], keys[turn]
            assert tracker.try_acquire("m", Demand(tokens=1))
    assert kinds >= {b"meta", b"expiry", b"models", b"m", b"l", b"q", b"w"}


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_evicts_is_refused_with_the_reason(
    configured: Callable[..., RedisServer], connect: Callable[..., LoadTracker], policy: str
) -> None:
    server = configured("--maxmemory", "3mb", "--maxmemory-policy", policy)
    tracker = connect(server.url)
    with pytest.raises(SpecError, match=f"expected maxmemory-policy noeviction, got {policy}"):
        tracker.set_capacity("m", Capacity(max_concurrent=4))


def test_a_full_server_takes_releases_and_nothing_new(
    configured: Callable[..., RedisServer], connect: Callable[..., LoadTracker]
) -> None:
    server = configured("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    tracker = connect(server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=10**6))
    leases: list[Lease] = []
    refusal: Lease | Refusal = tracker.try_acquire("m", ttl_s=100)
    with client_of(server) as client:
        for k in range(10_000):
            refusal = tracker.try_acquire("m", ttl_s=100)
            if isinstance(refusal, Refusal):
                break
            leases.append(refusal)
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                client.set(f"other:{k}", "x" * 20_000)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.STORE_UNAVAILABLE
    assert {lease.release() for lease in leases} == {ReleaseOutcome.RELEASED}


def test_a_node_of_a_cluster_is_refused(
    configured: Callable[..., RedisServer], connect: Callable[..., LoadTracker]
) -> None:
    server = configured("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with client_of(server) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    tracker = connect(server.url)
    with pytest.raises(SpecError, match="got a node of a Redis Cluster"):
        tracker.set_capacity("m", Capacity(max_concurrent=4))


def test_an_address_that_is_none_is_explained() -> None:
    with pytest.raises(
        SpecError, match="expected a URL such as redis://localhost:6379/0, got 'localhost:6379'"
    ):
        RedisStore("localhost:6379", replicas=1)
    with pytest.raises(SpecError, match=r"expected a URL or a client, .* got 6379"):
        RedisStore(6379, replicas=1)


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (["ACL", "SETUSER", "default", "-evalsha"], OutageCause.NOT_ALLOWED),
        (["CONFIG", "SET", "min-replicas-to-write", "3"], OutageCause.NO_REPLICAS),
        (["REPLICAOF", "127.0.0.1", "1"], OutageCause.READ_ONLY),
    ],
)
def test_errors_of_the_server_are_states_with_a_cause(
    own_server: RedisServer, connect: Callable[..., LoadTracker], command: list[str], cause: OutageCause
) -> None:
    tracker = connect(own_server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=4))
    store = tracker.store
    assert isinstance(store, RedisStore)
    assert store.cause is None
    with client_of(own_server) as client:
        client.execute_command(*command)
    answer = tracker.try_acquire("m")
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.STORE_UNAVAILABLE
    assert store.cause is cause
    assert store.detail


# -- replicas have names


def test_a_worker_that_restarts_is_still_one_replica(
    own_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    a, b = connect(own_server.url, replicas=3, name="a"), connect(own_server.url, replicas=3, name="b")
    for tracker in (a, b):
        tracker.set_capacity("m", Capacity(max_concurrent=4))
    c = connect(own_server.url, replicas=3, name="c")
    c.set_capacity("m", Capacity(max_concurrent=4))
    held = [tracker.acquire("m", ttl_s=60) for tracker in (a, a, b, b)]
    assert None not in held
    own_server.stop()
    own_server.start()
    for _ in range(4):
        c = connect(own_server.url, replicas=3, name="c")
        c.set_capacity("m", Capacity(max_concurrent=4))
        answer = c.try_acquire("m")
        assert isinstance(answer, Refusal)
        assert answer.reason is RefusalReason.RECOVERING
    a.snapshot()
    b.snapshot()
    answer = c.try_acquire("m")
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.CONCURRENCY


def test_a_replica_too_many_does_not_end_the_recovery(
    own_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    a, b = connect(own_server.url, replicas=2), connect(own_server.url, replicas=2)
    for tracker in (a, b):
        tracker.set_capacity("m", Capacity(max_concurrent=4))
    held = [a.acquire("m", ttl_s=60) for _ in range(4)]
    own_server.stop()
    own_server.start()
    assert not b.try_acquire("m")
    again = connect(own_server.url, replicas=2)  # worker b was restarted, and its old connection lingers
    again.set_capacity("m", Capacity(max_concurrent=4))
    assert not any(again.acquire("m") for _ in range(4))
    assert all(lease is not None and lease.state() is LeaseState.RUNNING for lease in held)


def test_children_of_a_fork_share_the_capacity(
    shared_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    tracker = connect(shared_server.url, replicas=1)
    tracker.set_capacity("m", Capacity(max_concurrent=4))
    reader, writer = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                granted = sum(tracker.acquire("m", ttl_s=60) is not None for _ in range(4))
                os.write(writer, bytes([granted]))
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    answers = list(os.read(reader, 9))
    os.close(reader)
    os.close(writer)
    assert len(answers) == 4
    assert sum(answers) == 4
    assert tracker.snapshot().active.tolist() == [4]


def test_a_child_that_is_forked_while_others_work_is_not_held_up(
    shared_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    tracker = connect(shared_server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=1))
    taken, forked = threading.Event(), threading.Event()

    def hold_a_lock() -> None:
        with store_of(tracker)._link._client.connection_pool._lock:  # as while it takes a connection
            taken.set()
            forked.wait()

    thread = threading.Thread(target=hold_a_lock)
    thread.start()
    taken.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if tracker.acquire("m") is not None else 1)
    forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_that_leaves_the_block_it_was_forked_in_leaves_the_lease_to_its_parent(
    shared_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    tracker = connect(shared_server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=1))
    lease = tracker.acquire("m")
    assert lease is not None
    parent = os.getpid()
    with lease:
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert lease.state() is LeaseState.RUNNING
    if os.getpid() != parent:
        os._exit(0)
    assert lease.state() is LeaseState.GONE


GUNICORN = textwrap.dedent("""
    import os, time
    from solver.load.store.redis import RedisStore
    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Capacity

    tracker = LoadTracker(store=RedisStore(os.environ["STORE"], replicas=3, max_ttl_s=60.0, timeout_s=5.0))
    tracker.set_capacity("m", Capacity(max_concurrent=4))  # before the workers are forked

    def application(environ, start_response):
        lease = tracker.acquire("m", ttl_s=60)
        time.sleep(0.02)  # others answer meanwhile
        body = f"{os.getpid()} {tracker.store.replica} {lease is not None}".encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
""")


def test_workers_of_gunicorn_share_the_capacity_of_a_preloaded_tracker(
    own_server: RedisServer, tmp_path: Any
) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(GUNICORN)
    path = tmp_path / "socket"
    with subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "--workers", "3", "--bind", f"unix:{path}", "app"],
        cwd=tmp_path,
        env={**os.environ, "STORE": own_server.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            answers = [_get(str(path), server)]
            with ThreadPoolExecutor(9) as threads:  # until every worker has spoken, nothing is granted
                while len({pid for pid, _, _ in answers}) < 3 or len(answers) < 60:
                    answers += threads.map(lambda _: _get(str(path), server), range(30))
                    assert len(answers) < 2000
        finally:
            server.terminate()
    assert sum(granted == "True" for _, _, granted in answers) == 4
    workers = {pid for pid, _, _ in answers}
    assert len({replica for _, replica, _ in answers}) == len(workers)


def _get(path: str, server: subprocess.Popen[bytes]) -> list[str]:
    started = time.perf_counter()
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(path)
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                reply = b"".join(iter(lambda: connection.recv(65536), b""))
        except (FileNotFoundError, ConnectionRefusedError):
            assert server.poll() is None, "gunicorn ended"
            assert time.perf_counter() - started < 30, "gunicorn did not start"
            time.sleep(0.02)  # a real server's start
            continue
        return reply.split(b"\r\n\r\n", 1)[1].decode().split()


def test_a_server_that_takes_over_without_the_last_writes_is_noticed_by_whoever_reaches_it(
    own_server: RedisServer, connect: Callable[..., LoadTracker]
) -> None:
    first, second = (connect(own_server.url, replicas=2, name=name, max_ttl_s=60.0) for name in "ab")
    for tracker in (first, second):
        tracker.set_capacity("m", Capacity(max_concurrent=1))
    real = redis.Redis(port=own_server.port)
    kept = {key: real.dump(key) for key in real.keys("*")}
    held = first.acquire("m", ttl_s=60.0)
    assert isinstance(held, Lease)
    real.close()
    own_server.stop()
    own_server.start()
    real = redis.Redis(port=own_server.port)
    for key, value in kept.items():
        real.restore(key, 0, value)
    real.script_load(script())  # as on a server that was the primary before: nothing else would tell
    real.close()
    still_holds(first, second, held)
