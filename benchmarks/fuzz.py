"""Feed every decoder and parser with damaged inputs: ``python -m benchmarks.fuzz --inputs 1000000``.

Each target runs in a process of its own with bounds on time and memory. An input follows from the seed of
the run, the target and the input's number alone, so that each can be made again (``--show TARGET NUMBER``).
Targets take turns of equal processor time. The counts are kept in the folder given: called again, the run
goes on where it ended. With ``--coverage`` the fuzzer is atheris (``pip install atheris``), which follows
the branches of the code.

Finds are inputs that raise anything but one of our errors (``*.txt`` holds the traceback), end the process,
take more than 5 s of a processor, or more than 1 GB of memory. Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import itertools
import json
import logging
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

from benchmarks.fuzz_files import FILE_TARGETS
from benchmarks.fuzz_targets import MESSAGE_TARGETS

MAX_BYTES = 8192
MOST_CPU_S = 5.0
MOST_MEMORY_BYTES = 1 << 30

TOKENS = (
    *(
        b"NaN",
        b"Infinity",
        b"-1",
        b"1e999",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"[" * 1500,
        b'{"a":' * 1200,
    ),
    *(
        b"9" * 30,
        b"0",
        b"-0.0",
        b"\\ud800",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\0",
        b"\r\n",
        b"\\",
        b"=cmd|' /C calc'!A0",
    ),
    *(b"../../x", b"data:,", b"%00", "年".encode(), b"\xe2\x80\xae", b"NUL", b"http://a/"),
)
"""What parsers trip over."""

NUMBERS = tuple(
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in {
        "H": (0, 1, 0x7FFF, 0x8000, 0xFFFF),
        "I": (0, 1, 0xFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
        "Q": (0, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1),
        "f": (float("nan"), float("inf"), -1e38, 1e-45),
        "d": (float("nan"), float("-inf"), 1e308),
    }.items()
    for value in values
)
INSTRUMENTED = ["ctai_sam2", "service", "pydicom", "PIL", "nibabel", "python_multipart"]
LIBRARIES = (
    *("PIL.Image", "highdicom", "nibabel", "pydicom", "safetensors.torch", "torch"),
    *("ctai_sam2.agreement.readings", "ctai_sam2.cohort", "ctai_sam2.exchange", "ctai_sam2.models.bundle"),
    *("ctai_sam2.models.sam2_network", "service.app", "tests.fakes"),
)
TARGETS = {**MESSAGE_TARGETS, **FILE_TARGETS}


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """Damage a seed in one to six ways."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        size = len(data)
        # Headers are at the beginning, and most of what can be misread.
        at = rng.randrange(min(size, 256) if rng.random() < 0.5 else size) if size else 0
        way = rng.randrange(10)
        if way <= 1 and size:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 2 and size:
            data[at] = rng.randrange(256)
        elif way == 3:
            number = rng.choice(NUMBERS)
            data[at : at + len(number)] = number
        elif way == 4:
            token = rng.choice(TOKENS)
            data[at : at + rng.choice((0, 1, len(token)))] = token
        elif way == 5:
            del data[at : at + rng.choice((1, 2, 4, 16, 64))]
        elif way == 6:
            data[at:at] = data[at : at + rng.choice((1, 4, 16, 256))] * rng.choice((1, 1, 2, 9))
        elif way == 7:
            del data[at:]
        elif way == 8:
            other = rng.choice(seeds)
            start = rng.randrange(len(other)) if other else 0
            data[at:] = other[start:]
        else:
            digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57] if size < 2048 else []
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789-.e")
    return bytes(data[:MAX_BYTES])


def input_of(seeds: list[bytes], target: str, seed: int, number: int) -> bytes:
    """Make the input of this number."""
    return mutate(seeds, random.Random(f"{target} {seed} {number}"))


class Progress:
    """Which input a process is at, since when, and the slowest so far: readable when the process has died."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 24)

    def note(self, number: int, slowest_s: float) -> None:
        """Note the input that is about to be read."""
        self._shared[:] = struct.pack("<qdd", number, time.monotonic(), slowest_s)

    def read(self) -> tuple[int, float, float]:
        """Return number, the time it was begun, and the slowest input's CPU time in s."""
        number, since, slowest_s = struct.unpack("<qdd", self._shared[:])
        return number, since, slowest_s


class Finds:
    """Inputs that did what none may, one for each place in the code."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def add(self, place: str, data: bytes, text: str) -> None:
        """Keep an input, unless there is one for the place."""
        name = f"found-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        if not (self._folder / f"{name}.txt").exists():
            (self._folder / f"{name}.bin").write_bytes(data)
            (self._folder / f"{name}.txt").write_text(f"{place}\n\n{text}", encoding="utf-8")

    def __len__(self) -> int:
        return sum(1 for _ in self._folder.glob("found-*.txt"))


def place_of(error: BaseException) -> str:
    """Name the kind of an error and the line it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {last.filename}:{last.lineno}"


def load_libraries() -> None:
    """Import once what the targets import, so that their processes begin at once."""
    for name in LIBRARIES:
        importlib.import_module(name)


def read_inputs(
    target: str, finds: Finds, progress: Progress, seed: int, first: int, turn_s: float, until: float
) -> NoReturn:
    """Read inputs in this process until its turn is over; ends with 0, or 4 where it cannot begin."""
    warnings.simplefilter("ignore")
    logging.disable()
    code = 4
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders' own code remarks on everything
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            run = TARGETS[target].make(Path(scratch))
            seeds = TARGETS[target].seeds(Path(scratch) / "again")
            for data in seeds:  # loads what is loaded late
                run(data)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY_BYTES, resource.RLIM_INFINITY))
            slowest_s, code = 0.0, 0
            ends_s = time.process_time() + turn_s
            for number in itertools.count(first):
                progress.note(number, slowest_s)
                if time.monotonic() > until or time.process_time() > ends_s:
                    break
                data = input_of(seeds, target, seed, number)
                started = time.process_time()
                try:
                    run(data)
                except Exception as error:
                    finds.add(place_of(error), data, traceback.format_exc())
                took_s = time.process_time() - started
                slowest_s = max(slowest_s, took_s)
                if took_s > MOST_CPU_S:
                    finds.add(f"slow {target}", data, f"input {number}: {took_s:.1f} s")
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)


def fuzz(
    target: str, folder: Path, *, seed: int, first: int, turn_s: float, until: float
) -> tuple[int, float]:
    """Read inputs in processes that may die; return the next one's number, and the slowest one's CPU time."""
    finds = Finds(folder)
    progress = Progress()
    progress.note(first, 0.0)
    number, slowest_s = first, 0.0
    while True:
        process = os.fork()
        if process == 0:
            read_inputs(target, finds, progress, seed, number, turn_s, until)
        status = None
        while status is None:
            time.sleep(0.05)
            done, code = os.waitpid(process, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() - progress.read()[1] > 120 + MOST_CPU_S:
                os.kill(process, signal.SIGKILL)
        number, _, slowest = progress.read()
        slowest_s = max(slowest_s, slowest)
        if status == 0:
            return number, slowest_s
        if status == 4:
            print(f"the target {target} could not be started", flush=True)
            return number, slowest_s
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            seeds = TARGETS[target].seeds(Path(scratch))
        finds.add(
            f"death {target} {status}", input_of(seeds, target, seed, number), f"input {number}: {status}"
        )
        number += 1


def follow_coverage(target: str, folder: Path, seconds: int, seed: int) -> NoReturn:
    """Let atheris lead in this process, for so many seconds."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
        run = TARGETS[target].make(scratch)
        seeds = TARGETS[target].seeds(scratch / "again")
        for data in seeds:
            run(data)
    finds = Finds(folder)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for data in seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def noting(data: bytes) -> None:
        try:
            run(data)
        except Exception as error:
            finds.add(place_of(error), data, traceback.format_exc())

    options = {
        "max_total_time": seconds,
        "seed": seed,
        "max_len": MAX_BYTES,
        "timeout": 20,
        "rss_limit_mb": 3072,
        "verbosity": 0,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/found-",
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)], noting
    )
    atheris.Fuzz()
    raise SystemExit


def run_in_shares(arguments: argparse.Namespace) -> bool:
    """Read inputs of all targets in turn until count or time is reached; return whether nothing was found."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    state = arguments.out / "counts.json"
    counts: dict[str, dict[str, float]] = json.loads(state.read_text()) if state.exists() else {}
    until = time.monotonic() + arguments.seconds
    while sum(entry["inputs"] for entry in counts.values()) < arguments.inputs:
        if time.monotonic() > until:
            break
        for target in arguments.targets:
            entry = counts.setdefault(target, {"inputs": 0, "seconds": 0.0, "slowest_s": 0.0})
            if time.monotonic() > until:
                break
            started = time.monotonic()
            last, slowest_s = fuzz(
                target,
                arguments.out / target,
                seed=arguments.seed,
                first=int(entry["inputs"]),
                turn_s=arguments.turn_s,
                until=until,
            )
            entry["inputs"] = last
            entry["seconds"] += time.monotonic() - started
            entry["slowest_s"] = max(entry["slowest_s"], slowest_s)
            entry["found"] = len(Finds(arguments.out / target))
            part = state.with_suffix(".part")
            part.write_text(json.dumps(counts, indent=1))
            part.replace(state)
    print(f"{'target':<14}{'inputs':>10}{'seconds':>10}{'per s':>8}{'slowest s':>11}{'found':>7}")
    for target, entry in counts.items():
        rate = entry["inputs"] / max(1e-9, entry["seconds"])
        print(
            f"{target:<14}{entry['inputs']:>10.0f}{entry['seconds']:>10.0f}{rate:>8.0f}"
            f"{entry['slowest_s']:>11.2f}{entry.get('found', 0):>7.0f}"
        )
    print(f"{'together':<14}{sum(entry['inputs'] for entry in counts.values()):>10.0f}")
    return not any(entry.get("found") for entry in counts.values())


def main() -> int:
    """Fuzz; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=20_000, help="together (default 20000)")
    parser.add_argument("--seconds", type=float, default=2000, help="at most (default 2000)")
    parser.add_argument(
        "--turn-s", type=float, default=30, help="of a processor, for a target before the next (default 30)"
    )
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder of counts and finds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", choices=TARGETS, help="let atheris lead on this target")
    parser.add_argument("--show", nargs=2, metavar=("TARGET", "NUMBER"), help="write this input to stdout")
    given = parser.parse_args()
    if given.show:
        with tempfile.TemporaryDirectory() as scratch:
            seeds = TARGETS[given.show[0]].seeds(Path(scratch))
        sys.stdout.buffer.write(input_of(seeds, given.show[0], given.seed, int(given.show[1])))
        return 0
    if given.coverage:
        follow_coverage(given.coverage, given.out / given.coverage, int(given.seconds), given.seed)
    load_libraries()
    return 0 if run_in_shares(given) else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
