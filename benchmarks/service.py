"""Measure the service on loopback against the same model in this process: ``python -m benchmarks.service``.

The service runs in a process of its own, as it would; clients are threads of
this one, each with its own connection and its own slice. In-process and service
rounds alternate in one run, and throughput is compared by the ratio of each
pair, because single times on a shared machine say little.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests

from benchmarks.reporting import Ratio, add_json_option, report, time_ms
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.models import LocalSegmenter, RemoteSegmenter, wire
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.types import Prompt

PROJECT = Path(__file__).resolve().parents[1]
START_S = 120.0


@contextmanager
def running_service(**settings: object) -> Iterator[tuple[str, int]]:
    """Start the service in a process of its own; yields address and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        given = {"PORT": port, "CACHE_DIR": folder, "DEVICE": "cpu", "MAX_EMBEDDINGS": 128, **settings}
        environment = {f"SAM2_{name}": str(value) for name, value in given.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=PROJECT,
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + START_S
            while True:
                try:
                    if requests.get(url + wire.READY_PATH, timeout=5).status_code == 200:
                        break
                except requests.ConnectionError:
                    pass
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the service did not start")
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def memory_mb(pid: int) -> float | None:
    """Return the resident memory of a process in MB, where the system tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def prompts(client: int, count: int, salt: int) -> list[Prompt]:
    """Clicks never made before, so that none is cached."""
    rng = np.random.default_rng((client, salt))
    return [Prompt.point(*rng.uniform(100, 400, 2)) for _ in range(count)]


def run_clients(
    ask: list[Callable[[np.ndarray, Prompt], object]], images: list[np.ndarray], clicks: int, salt: int
) -> tuple[float, list[float]]:
    """Let every client make its clicks at the same time; return clicks per s and the times in ms."""
    barrier = threading.Barrier(len(ask) + 1)

    def client(index: int) -> list[float]:
        image = images[index % len(images)]
        own = prompts(index, clicks, salt)
        barrier.wait()
        return [time_ms(lambda prompt=prompt: ask[index](image, prompt)) for prompt in own]

    with ThreadPoolExecutor(len(ask)) as pool:
        futures = [pool.submit(client, index) for index in range(len(ask))]
        barrier.wait()
        started = time.perf_counter()
        times = [value for future in futures for value in future.result()]
        took_s = time.perf_counter() - started
    return len(times) / took_s, times


def measure_clients(
    url: str,
    pid: int,
    local: LocalSegmenter,
    images: list[np.ndarray],
    *,
    clients: int,
    clicks: int,
    rounds: int,
) -> dict[str, float]:
    """Compare the service with the in-process loop for a number of clients, in turn."""
    remotes = [RemoteSegmenter(url) for _ in range(clients)]
    for index, remote in enumerate(remotes):
        remote.embed(images[index % len(images)])
    ratios, rates, loop_rates, times = [], [], [], []
    for number in range(rounds):
        loop_rate, _ = run_clients([local.predict], images, clicks * min(clients, 4), salt=2 * number)
        rate, round_times = run_clients(
            [remote.predict for remote in remotes], images, clicks, salt=2 * number + 1
        )
        ratios.append(rate / loop_rate)
        rates.append(rate)
        loop_rates.append(loop_rate)
        times += round_times
    for remote in remotes:
        remote.close()
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {
        "clicks_per_s": statistics.median(rates),
        "in_process_clicks_per_s": statistics.median(loop_rates),
        "vs_in_process": statistics.median(ratios),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "service_memory_mb": memory_mb(pid) or float("nan"),
    }


def measure_overload(images: list[np.ndarray], *, clients: int, clicks: int) -> dict[str, float]:
    """Send more than a small queue takes: bare requests are turned away, the client's own retries are not."""
    data = wire.encode_image(images[0])
    digest = wire.digest_of(data)
    figures: dict[str, float] = {}
    with running_service(MAX_CONCURRENCY=1, QUEUE_LENGTH=4) as (url, _):
        requests.put(url + wire.IMAGE_PATH.format(sha256=digest), data=data, timeout=60).raise_for_status()
        seen: Counter[str] = Counter()
        lock = threading.Lock()

        def ask_bare(_: np.ndarray, prompt: Prompt) -> None:
            body = json.dumps(wire.encode_prompt(prompt))
            response = requests.post(url + wire.SEGMENT_PATH.format(sha256=digest), data=body, timeout=60)
            with lock:
                seen[str(response.status_code)] += 1
                if response.status_code in (429, 503) and "Retry-After" not in response.headers:
                    seen["without_retry_after"] += 1

        run_clients([ask_bare] * clients, images[:1], clicks, salt=1001)
        figures |= {f"bare_{name}": float(count) for name, count in sorted(seen.items())}
        failures: Counter[str] = Counter()

        def ask_patient(remote: RemoteSegmenter) -> Callable[[np.ndarray, Prompt], None]:
            def ask(image: np.ndarray, prompt: Prompt) -> None:
                try:
                    remote.predict(image, prompt)
                except Exception as error:
                    with lock:
                        failures[type(error).__name__] += 1

            return ask

        remotes = [RemoteSegmenter(url) for _ in range(clients)]
        rate, times = run_clients([ask_patient(remote) for remote in remotes], images[:1], clicks, salt=1002)
        for remote in remotes:
            remote.close()
        figures |= {
            "with_retries_failed": float(sum(failures.values())),
            "with_retries_clicks_per_s": rate,
            "with_retries_p99_ms": float(np.percentile(times, 99)),
        }
    return figures


def measure_memory(images: list[np.ndarray], *, requests_in_all: int, clients: int = 4) -> dict[str, float]:
    """Watch the service's memory over many requests: clicks, slices never seen before, and bad ones.

    Of twenty requests of a client one brings a new slice and one is refused. The stores are small, so that
    they are full after the first tenth and what grows later is not a store filling up.
    """
    per_tenth = max(1, requests_in_all // (10 * clients))
    seen: Counter[str] = Counter()
    lock = threading.Lock()
    memory: list[float] = []
    data = [wire.encode_image(image) for image in images]

    with running_service(IMAGE_STORE_MB=8, MAX_EMBEDDINGS=8, CACHE_MAX_MB=8, QUEUE_LENGTH=64) as (url, pid):

        def client(index: int, tenth: int) -> None:
            rng = np.random.default_rng((index, tenth))
            session = requests.Session()
            known = data[index % len(data)]
            for number in range(per_tenth):
                body: dict[str, object] = {"points": rng.uniform(100, 400, (1, 2)).tolist()}
                if number % 20 == 0:
                    changed = images[index % len(images)].copy()
                    changed[:8] = rng.integers(0, 256, changed[:8].shape, np.uint8)
                    known = wire.encode_image(changed)
                elif number % 20 == 10:
                    body = {"points": [[-5, 1e9]]}
                path = wire.digest_of(known)
                response = session.post(url + wire.SEGMENT_PATH.format(sha256=path), json=body, timeout=120)
                if response.status_code == 404:
                    session.put(url + wire.IMAGE_PATH.format(sha256=path), data=known, timeout=120)
                    response = session.post(
                        url + wire.SEGMENT_PATH.format(sha256=path), json=body, timeout=120
                    )
                with lock:
                    seen[str(response.status_code)] += 1
            session.close()

        for tenth in range(10):
            with ThreadPoolExecutor(clients) as pool:
                list(pool.map(client, range(clients), [tenth] * clients))
            memory.append(memory_mb(pid) or float("nan"))
    growth = np.polyfit(np.arange(5), memory[5:], 1)[0] / (per_tenth * clients / 1000)
    return {
        "requests": float(10 * per_tenth * clients),
        **{f"status_{status}": float(count) for status, count in sorted(seen.items())},
        **{f"memory_after_{n}_tenths_mb": memory[n - 1] for n in (1, 2, 4, 6, 8, 10)},
        "mb_per_1000_requests_2nd_half": float(growth),
    }


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--overload-clients", type=int, default=64, help="0 leaves it out (default 64)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of torch, here and in the service (default 1: for many clients)",
    )
    parser.add_argument("--clicks", type=int, default=20, help="clicks of each client and round (default 20)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    parser.add_argument(
        "--requests",
        type=int,
        default=10_000,
        help="requests of the memory run; 0 leaves it out (default 10000)",
    )
    add_json_option(parser)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    images = [
        window_to_uint8(make_axial_slice(reference_parameters(), z_mm=float(z), rng=rng).hu)
        for z in np.linspace(-20, 20, 16)
    ]
    figures: dict[str, dict[str, float]] = {}
    with (
        LocalSegmenter(device="cpu", max_embeddings=32, num_threads=arguments.threads) as local,
        running_service(QUEUE_LENGTH=128, NUM_THREADS=arguments.threads) as (url, pid),
    ):
        local.warm_up()  # as the service does
        for image in images:
            local.embed(image)
        idle_mb = memory_mb(pid)
        for clients in arguments.clients:
            figures[f"{clients} clients"] = measure_clients(
                url, pid, local, images, clients=clients, clicks=arguments.clicks, rounds=arguments.rounds
            )
        figures["just started"] = {"service_memory_mb": idle_mb or float("nan")}
    if arguments.overload_clients:
        figures[f"overload, {arguments.overload_clients} clients"] = measure_overload(
            images, clients=arguments.overload_clients, clicks=4
        )
    if arguments.requests:
        figures["memory, 4 clients"] = measure_memory(images, requests_in_all=arguments.requests)
    ratios = {
        f"service: clicks of {clients} clients, to the loop in one process": Ratio(
            figures[f"{clients} clients"]["vs_in_process"], "higher", 0.9
        )
        for clients in arguments.clients
    }
    report(figures, ratios, arguments.json)


if __name__ == "__main__":
    main()
