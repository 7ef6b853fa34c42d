"""`plait serve` beside a pipeline behind FastAPI: requests per second and the 95th percentile of the waiting time."""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from paired import Row, Spent, measure_pairs
from predict_cases import save_classifier
from process_cases import PEERS, QUIET

CLIENTS = (1, 8, 32)


class Load(NamedTuple):
    """What a server did under load: requests per second, and the 95th percentile of a request's time in ms."""

    rate: float
    slow: float


def find_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def start_server(arguments: list[str], port: int) -> Iterator[int]:
    """Runs a server until it answers on its port; yields its process id and ends it."""
    with subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **QUIET}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until_open(process, port)
            yield process.pid
        finally:
            process.terminate()


def wait_until_open(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Raises SystemExit if the process ends or does not listen within five minutes."""
    for _ in range(1500):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("the server does not listen")


def ask(connection: http.client.HTTPConnection, path: str, text: str) -> Any:
    """Posts {"text": text} as JSON and returns the answer."""
    connection.request("POST", path, json.dumps({"text": text}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise SystemExit(f"{path} answered {response.status}: {body[:300]!r}")
    return json.loads(body)


def read_cpu_seconds(process: int) -> float:
    """Returns the CPU time of a process with all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def put_under_load(port: int, path: str, texts: list[str], clients: int) -> list[float]:
    """Sends each text once from as many clients at the same time; returns the seconds of each request."""
    waits: list[float] = []
    failures: list[BaseException] = []

    def send(own: list[str]) -> None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            for text in own:
                start = time.perf_counter()
                ask(connection, path, text)
                waits.append(time.perf_counter() - start)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(texts[number::clients],)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return waits


def build_side(
    process: int, port: int, path: str, texts: list[str], clients: int, loads: list[Load]
) -> Callable[[], Spent]:
    """Returns what measures one server once and keeps its load."""

    def run() -> Spent:
        start, cpu = time.perf_counter(), read_cpu_seconds(process)
        waits = put_under_load(port, path, texts, clients)
        wall = time.perf_counter() - start
        loads.append(Load(len(texts) / wall, 1000 * statistics.quantiles(waits, n=20)[-1]))
        return Spent(wall, read_cpu_seconds(process) - cpu)

    return run


def describe_loads(loads: list[Load]) -> str:
    return f"{statistics.median(x.rate for x in loads):.0f}/s, p95 {statistics.median(x.slow for x in loads):.0f} ms"


def compare_replies(ours: int, peer: int, texts: list[str]) -> str:
    """Checks that both servers give the same probabilities."""
    worst = 0.0
    for text in texts:
        found = ask(http.client.HTTPConnection("127.0.0.1", ours), "/predict", text)["probabilities"]
        (expected,) = ask(http.client.HTTPConnection("127.0.0.1", peer), "/predict", text)
        worst = max(worst, *(abs(found[answer["label"]] - answer["score"]) for answer in expected))
    if worst > 1e-4:
        raise SystemExit(f"serve: probabilities differ by {worst:.1e}")
    return f"within {worst:.0e}"


def serve_texts(encoder: str, texts: list[str], rounds: int, work: Path) -> list[Row]:
    """Measures both servers, running side by side, under each number of clients."""
    model, port, peer_port = save_classifier(encoder, 3, work / "served"), find_port(), find_port()
    ours = ["-m", "plait", "serve", model, "--api", "--port", str(port), "--max_length=128"]
    peer = [str(PEERS), "serve", "--model", model, "--port", str(peer_port)]
    rows = []
    with start_server(ours, port) as process, start_server(peer, peer_port) as peer_process:
        same = compare_replies(port, peer_port, texts[:20])
        for clients in CLIENTS:
            loads: tuple[list[Load], list[Load]] = ([], [])
            sides = (
                build_side(process, port, "/predict", texts, clients, loads[0]),
                build_side(peer_process, peer_port, "/predict", texts, clients, loads[1]),
            )
            pairs = measure_pairs(f"serve {clients} clients", *sides, rounds)
            said = f"{same}; plait {describe_loads(loads[0])}; peer {describe_loads(loads[1])}"
            case = f"serve {len(texts)} requests of {clients} clients"
            rows.append(Row(case, "pipeline behind FastAPI", *pairs, 1.0, said))
    return rows
