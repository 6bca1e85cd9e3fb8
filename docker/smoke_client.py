"""Compare a running container's predictions with SAM2 in this process: part of ``smoke_test.sh``.

The key is read from ``SAM2_API_KEY``. Figures go to stdout alone, so that the script can use them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import requests
from numpy.typing import NDArray

from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.io.reference_cases import read_case_npz
from ctai_sam2.models import LocalSegmenter, RemoteSegmenter, wire
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.types import Prediction, Prompt

WAIT_S = 600.0
THREADS = 2
"""As in docker-compose.yml: sums in another order differ in their last bits."""
NAMED = (Prompt(structure="muscle"), Prompt(structure="psoas_left"))

IN_THE_CONTAINER = """
import hashlib, os, sys, requests
data = sys.stdin.buffer.read()
url = "http://127.0.0.1:" + os.environ["SAM2_PORT"] + "/v1/images/" + hashlib.sha256(data).hexdigest()
key = {"X-API-Key": os.environ["SAM2_API_KEY"]}
requests.put(url, data=data, headers=key, timeout=60).raise_for_status()
response = requests.post(url + "/segment", json={"structure": "muscle"}, headers=key, timeout=60)
response.raise_for_status()
print(response.text)
"""
"""Puts the picture that it reads from stdin, and prints what the service says of its muscle."""


def phantom_image() -> NDArray[np.uint8]:
    """Return the mid-L3 slice of the reference phantom, windowed, of shape (512, 512)."""
    rng = np.random.default_rng(0)
    return window_to_uint8(make_axial_slice(reference_parameters(), z_mm=0.0, rng=rng).hu)


def images() -> dict[str, NDArray[np.uint8]]:
    """Return the slices to compare on: the phantom's, and a real one where there is real data."""
    found = {"phantom": phantom_image()}
    named = os.environ.get("CTAI_SAM2_REAL_DATA")
    cases = sorted((Path(named) / "dev" / "cases").glob("*axial*.npz")) if named else []
    if cases:
        found["real"] = window_to_uint8(read_case_npz(cases[0]).slice.hu)
    return found


def wait(url: str, since: float) -> int:
    """Wait until the service is ready; print the seconds since a time of the system's clock."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        try:
            if requests.get(url + wire.READY_PATH, timeout=2).status_code == 200:
                sys.stdout.write(f"{time.time() - since:.1f}\n")
                return 0
        except requests.RequestException:
            pass
        time.sleep(0.05)
    return 1


def compare(url: str, response: Path | None, click_x: float | None) -> int:
    """Compare masks with those of this process; 1 where one pixel differs.

    A click that was not made before is computed; names come from the cache when requested again.
    """
    is_same = True
    with LocalSegmenter(device="cpu", num_threads=THREADS) as local:
        if response is not None:
            image = phantom_image()
            there = wire.decode_prediction(
                json.loads(response.read_text(encoding="utf-8")),
                image_sha256=wire.digest_of(wire.encode_image(image)),
                shape_hw=(image.shape[0], image.shape[1]),
            )
            return 0 if _agree("phantom", NAMED[0], there, local.predict(image, NAMED[0])) else 1
        with RemoteSegmenter(url, api_key=os.environ["SAM2_API_KEY"]) as remote:
            for name, image in images().items():
                for prompt in NAMED if click_x is None else [*NAMED, Prompt.point(click_x, 300)]:
                    there, here = remote.predict(image, prompt), local.predict(image, prompt)
                    is_same &= _agree(name, prompt, there, here)
    return 0 if is_same else 1


def _agree(name: str, prompt: Prompt, there: Prediction, here: Prediction) -> bool:
    same_weights = there.identity.weights_sha256 == here.identity.weights_sha256
    differing = int((there.masks != here.masks).sum())
    sys.stdout.write(
        f"        {name}, {prompt.structure or 'one click'}: {int(there.mask.sum())} pixels, "
        f"{differing} of {there.masks.size} differ, "
        f"{'from the cache' if there.cached else f'{there.processing_time_ms:.0f} ms'}"
        f"{'' if same_weights else ', OTHER WEIGHTS'}\n"
    )
    return same_weights and differing == 0 and there.mask.any()


def original(url: str, patient: str) -> int:
    """Send the original system's form with a patient's number; 0 where it comes back with a mask."""
    response = requests.post(
        url + wire.ORIGINAL_PATH,
        files={"file": ("slice.png", wire.encode_image(phantom_image()), "image/png")},
        data={"image_type": "middle", "patient_id": patient, "slice_index": "3"},
        headers={wire.API_KEY_HEADER: os.environ["SAM2_API_KEY"]},
        timeout=60,
    )
    body = response.json()
    return 0 if response.status_code == 200 and body["mask_data"] and body["patient_id"] == patient else 1


def main() -> int:
    """Do one of the script's errands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    errands = parser.add_subparsers(dest="errand", required=True)
    errands.add_parser("wait").add_argument("--since", type=float, required=True)
    comparing = errands.add_parser("compare")
    comparing.add_argument("--response", type=Path, default=None)
    comparing.add_argument("--click-x", type=float, default=None)
    errands.add_parser("original").add_argument("--patient", required=True)
    for name in ("status-without-key", "cached", "picture", "script"):
        errands.add_parser(name)
    given = parser.parse_args()
    if given.errand == "wait":
        return wait(given.url, given.since)
    if given.errand == "compare":
        return compare(given.url, given.response, given.click_x)
    if given.errand == "original":
        return original(given.url, given.patient)
    if given.errand == "status-without-key":
        sys.stdout.write(f"{requests.get(given.url + wire.ORIGINAL_HEALTH_PATH, timeout=10).status_code}\n")
    elif given.errand == "cached":
        with RemoteSegmenter(given.url, api_key=os.environ["SAM2_API_KEY"]) as remote:
            sys.stdout.write(f"{remote.predict(phantom_image(), NAMED[0]).cached}\n")
    elif given.errand == "picture":
        sys.stdout.buffer.write(wire.encode_image(phantom_image()))
    else:
        sys.stdout.write(IN_THE_CONTAINER)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
