"""What hostile requests cost the service and its other clients: ``python -m benchmarks.hostile_service``.

The service runs in a process of its own with the real model. Hostile are a picture whose comment inflates to
256 MB, a progressive JPEG of hundreds of scans, a DICOM header alone that declares 65535 x 65535 pixels, a
picture that is cut off, JSON of half a million values, and 30 MB of JSON of long numbers. Each JPEG is
decoded until its worker is killed: 200 hostile requests take minutes on a busy machine.
Times are given as ratios to the same request of the same run without hostile clients. Then so many honest
clients as are given click through the package's own client, in turn alone and next to a tenth as many hostile
clients (one at least), who come from another address and never pause.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import requests
from PIL import Image

from benchmarks.reporting import Ratio, add_json_option, report, time_ms
from benchmarks.service import memory_mb, run_clients, running_service
from ctai_sam2.models import RemoteSegmenter, wire
from ctai_sam2.types import Prompt

DECODE_S = 2
TIMEOUT_S = 120


def hostile_bodies() -> list[bytes]:
    """Return bodies that cost much more to read than to send."""
    noise = np.kron(np.random.default_rng(0).integers(0, 255, (64, 64)), np.ones((64, 64))).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).save(target, "JPEG", progressive=True, quality=30)
    picture = target.getvalue()
    last = picture.rindex(b"\xff\xda")
    slow = picture[:last] + picture[last:-2] * 400 + picture[-2:]
    target = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(target, "PNG")
    plain = target.getvalue()
    comment = b"zTXtc\0\0" + zlib.compress(bytes(1 << 28), 9)
    chunk = (len(comment) - 4).to_bytes(4, "big") + comment + zlib.crc32(comment).to_bytes(4, "big")
    frame = b"\x28\x00\x10\x00US\x02\x00\xff\xff\x28\x00\x11\x00US\x02\x00\xff\xff"
    return [slow, plain[:33] + chunk + plain[33:], bytes(128) + b"DICM" + frame, plain[:40]]


def send_hostile(url: str, number: int, bodies: list[bytes]) -> str:
    """Send one hostile request, each kind in turn; return its status, or the kind of error."""
    kind = number % (len(bodies) + 2)
    session = requests.Session()
    session.mount("http://", Attackers())
    try:
        if kind == len(bodies) + 1:
            numbers = b'{"image_data": "A", "x": [' + b"9" * 4000 + (b"," + b"9" * 4000) * 7500 + b"]}"
            headers = {"Content-Type": "application/json"}
            path = wire.ORIGINAL_PATH
            return str(session.post(url + path, data=numbers, headers=headers, timeout=TIMEOUT_S).status_code)
        if kind == len(bodies):
            text = '{"points": [' + "[0,0]," * 150_000 + "[0,0]]}"
            path = wire.SEGMENT_PATH.format(sha256="0" * 64)
            return str(session.post(url + path, data=text, timeout=TIMEOUT_S).status_code)
        data = bodies[kind] + number.to_bytes(4, "big")
        path = wire.IMAGE_PATH.format(sha256=wire.digest_of(data))
        return str(session.put(url + path, data=data, timeout=TIMEOUT_S).status_code)
    except requests.RequestException as error:
        return type(error).__name__
    finally:
        session.close()


def health_ms(url: str, count: int) -> list[float]:
    """Return the times of a number of requests for the health, one after the other."""
    with requests.Session() as session:
        return [time_ms(lambda: session.get(url + wire.HEALTH_PATH, timeout=30)) for _ in range(count)]


class Attackers(requests.adapters.HTTPAdapter):
    """Sends from another address of this machine, as attackers would not share that of honest clients."""

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        """Bind the address."""
        super().init_poolmanager(*arguments, source_address=("127.0.0.2", 0), **named)


@dataclass(frozen=True)
class Load:
    """What honest clients had next to hostile ones.

    Parameters
    ----------
    to_calm : float
        Clicks per second, to those of the same clients alone.
    errors : int
        Clicks that ended with an error after the retries of the package's own client.
    health_worst_ms : float
        Of requests for the health all the while.
    memory_mb : float
        Largest resident memory of the service.
    hostile : int
        Hostile requests that had a response meanwhile.
    """

    to_calm: float
    errors: int
    health_worst_ms: float
    memory_mb: float
    hostile: int


def load_next_to_hostile(
    url: str, pid: int, *, clients: int, clicks: int, rounds: int, bodies: list[bytes]
) -> Load:
    """Let honest clients click in turn alone and next to a tenth as many hostile ones, who never pause."""
    images = [np.random.default_rng(n).integers(0, 255, (256, 256)).astype(np.uint8) for n in range(8)]
    remotes = [RemoteSegmenter(url) for _ in range(clients)]
    for number, remote in enumerate(remotes):
        remote.embed(images[number % len(images)])
    errors: list[str] = []
    ratios, health, memory, hostile = [], [0.0], [0.0], [0]

    def ask(remote: RemoteSegmenter) -> Callable[[np.ndarray, Prompt], None]:
        def click(image: np.ndarray, _: Prompt) -> None:
            with lock:
                x, y = places.uniform(20, 230, 2)
            try:
                remote.predict(image, Prompt.point(x, y))
            except Exception as error:
                errors.append(type(error).__name__)

        return click

    lock, places = threading.Lock(), np.random.default_rng(clients)
    asks = [ask(remote) for remote in remotes]
    for _ in range(rounds):
        calm, _ = run_clients(asks, images, clicks, salt=0)
        over = threading.Event()

        def attack(first: int, over: threading.Event = over) -> None:
            for number in itertools.count(first):
                if over.is_set():
                    break
                send_hostile(url, number, bodies)
                hostile[0] += 1

        def watch(over: threading.Event = over) -> None:
            while not over.wait(0.2):
                health.extend(health_ms(url, 1))
                memory.append(memory_mb(pid) or 0.0)

        threads = [threading.Thread(target=attack, args=(n,)) for n in range(max(1, clients // 10))]
        threads.append(threading.Thread(target=watch))
        for thread in threads:
            thread.start()
        attacked, _ = run_clients(asks, images, clicks, salt=0)
        over.set()
        for thread in threads:
            thread.join()
        ratios.append(attacked / calm)
    for remote in remotes:
        remote.close()
    return Load(
        to_calm=statistics.median(ratios),
        errors=len(errors),
        health_worst_ms=max(health),
        memory_mb=max(memory),
        hostile=hostile[0],
    )


def main() -> None:
    """Measure health, memory and honest clients."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_service", description=__doc__)
    parser.add_argument("--hostile", type=int, default=200, help="hostile requests (default 200)")
    parser.add_argument("--clicks", type=int, default=20, help="of each client and round (default 20)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16, 64], help="at once")
    add_json_option(parser)
    arguments = parser.parse_args()
    bodies = hostile_bodies()
    with running_service(DECODE_TIMEOUT=DECODE_S, QUEUE_LENGTH=64, NUM_THREADS=1) as (url, pid):
        with RemoteSegmenter(url) as first:
            first.predict(np.zeros((256, 256), np.uint8), Prompt.point(100, 100))
        calm = health_ms(url, 100)
        idle_mb = memory_mb(pid) or float("nan")

        over = threading.Event()

        def attack() -> None:
            for kind in itertools.cycle((0, len(bodies) + 1)):  # long in a decoder, long in a parser
                if over.is_set():
                    break
                send_hostile(url, kind, bodies)

        attacking = threading.Thread(target=attack)
        attacking.start()
        attacked = health_ms(url, 100)
        over.set()
        attacking.join()

        with ThreadPoolExecutor(4) as pool:
            statuses = Counter(pool.map(lambda n: send_hostile(url, n, bodies), range(arguments.hostile)))
        after_mb = memory_mb(pid) or float("nan")

        loads = {
            clients: load_next_to_hostile(
                url,
                pid,
                clients=clients,
                clicks=max(4, arguments.clicks * 4 // max(4, clients)),
                rounds=arguments.rounds,
                bodies=bodies,
            )
            for clients in arguments.clients
        }
    figures: dict[str, dict[str, float]] = {
        "health": {
            "calm_median_ms": statistics.median(calm),
            "attacked_median_ms": statistics.median(attacked),
            "attacked_worst_ms": max(attacked),
        },
        f"{arguments.hostile} hostile requests": {
            "idle_memory_mb": idle_mb,
            "memory_after_mb": after_mb,
            **{f"status_{status}": float(count) for status, count in sorted(statuses.items())},
        },
    }
    ratios = {
        "health while a hostile body is decoded, to calm": Ratio(
            statistics.median(attacked) / statistics.median(calm), "lower", 10
        ),
        "memory after hostile requests, to idle": Ratio(after_mb / idle_mb, "lower", 1.2),
    }
    for clients, load in loads.items():
        figures[f"{clients} clients next to hostile ones"] = asdict(load)
        name = f"clicks per s of {clients} clients next to 10 % hostile, to calm"
        ratios[name] = Ratio(load.to_calm, "higher", 0.8)
    most_mb = max(load.memory_mb for load in loads.values()) if loads else after_mb
    ratios["memory of the service under all loads, to idle"] = Ratio(most_mb / idle_mb, "lower", 1.5)
    report(figures, ratios, arguments.json)


if __name__ == "__main__":
    main()
