"""What hostile requests cost the service and its other clients: ``python -m benchmarks.hostile_service``.

The service runs in a process of its own with the real model. Hostile are a picture whose comment inflates to
256 MB, a progressive JPEG of hundreds of scans, a DICOM header alone that declares 65535 x 65535 pixels, a
picture that is cut off, JSON of half a million values, and 30 MB of JSON of long numbers. Each JPEG is
decoded until its worker is killed: 200 hostile requests take minutes on a busy machine.
Times are given as ratios to the same request of the same run without hostile clients; for so many clients at
once as are given, how much slower honest clicks are next to a tenth as many hostile requests.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import requests
from PIL import Image

from benchmarks.reporting import Ratio, add_json_option, report, time_ms
from benchmarks.service import memory_mb, running_service
from ctai_sam2.models import wire

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
    try:
        if kind == len(bodies) + 1:
            numbers = b'{"image_data": "A", "x": [' + b"9" * 4000 + (b"," + b"9" * 4000) * 7500 + b"]}"
            headers = {"Content-Type": "application/json"}
            path = wire.ORIGINAL_PATH
            return str(
                requests.post(url + path, data=numbers, headers=headers, timeout=TIMEOUT_S).status_code
            )
        if kind == len(bodies):
            text = '{"points": [' + "[0,0]," * 150_000 + "[0,0]]}"
            path = wire.SEGMENT_PATH.format(sha256="0" * 64)
            return str(requests.post(url + path, data=text, timeout=TIMEOUT_S).status_code)
        data = bodies[kind] + number.to_bytes(4, "big")
        path = wire.IMAGE_PATH.format(sha256=wire.digest_of(data))
        return str(requests.put(url + path, data=data, timeout=TIMEOUT_S).status_code)
    except requests.RequestException as error:
        return type(error).__name__


def health_ms(url: str, count: int) -> list[float]:
    """Return the times of a number of requests for the health, one after the other."""
    with requests.Session() as session:
        return [time_ms(lambda: session.get(url + wire.HEALTH_PATH, timeout=30)) for _ in range(count)]


def click(url: str, digest: str, number: int) -> int:
    """Click where nobody did before; return the status."""
    x, y = np.random.default_rng(number).uniform(50, 200, 2)
    path = wire.SEGMENT_PATH.format(sha256=digest)
    return requests.post(url + path, json={"points": [[x, y]]}, timeout=TIMEOUT_S).status_code


def clicks_per_s(url: str, digest: str, count: int, *, clients: int, salt: int) -> tuple[float, int]:
    """Return the rate at which clients at once have their clicks, and how many succeed."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        statuses = list(pool.map(lambda number: click(url, digest, salt + number), range(count)))
    return count / (time.perf_counter() - started), statuses.count(200)


def next_to_hostile(
    url: str, digest: str, count: int, *, clients: int, bodies: list[bytes]
) -> tuple[float, float]:
    """Return the rate of clicks next to a tenth as many hostile requests, to calm; and how many succeed."""
    salt = 100_000 * clients
    calm, _ = clicks_per_s(url, digest, count, clients=clients, salt=salt)
    with ThreadPoolExecutor(max(1, clients // 10)) as attackers:
        sent = [attackers.submit(send_hostile, url, number, bodies) for number in range(max(1, count // 10))]
        attacked, done = clicks_per_s(url, digest, count, clients=clients, salt=salt + 50_000)
        for one in sent:
            one.cancel()
    return attacked / calm, done / count


def main() -> None:
    """Measure health, memory and honest clients."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_service", description=__doc__)
    parser.add_argument("--hostile", type=int, default=200, help="hostile requests (default 200)")
    parser.add_argument("--honest", type=int, default=90, help="clicks for each load (default 90)")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16, 64], help="at once")
    add_json_option(parser)
    arguments = parser.parse_args()
    bodies = hostile_bodies()
    image = wire.encode_image(np.random.default_rng(1).integers(0, 255, (256, 256)).astype(np.uint8))
    digest = wire.digest_of(image)
    with running_service(DECODE_TIMEOUT=DECODE_S, QUEUE_LENGTH=64, NUM_THREADS=1) as (url, pid):
        requests.put(url + wire.IMAGE_PATH.format(sha256=digest), data=image, timeout=TIMEOUT_S)
        click(url, digest, 0)
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
            clients: next_to_hostile(url, digest, arguments.honest, clients=clients, bodies=bodies)
            for clients in arguments.clients
        }
    figures = {
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
    for clients, (rate, share) in loads.items():
        name = f"clicks per s of {clients} clients next to 10 % hostile, to calm"
        ratios[name] = Ratio(rate, "higher", 0.5)
        ratios[f"their clicks that succeed, {clients} clients"] = Ratio(share, "higher", 1.0)
    report(figures, ratios, arguments.json)


if __name__ == "__main__":
    main()
