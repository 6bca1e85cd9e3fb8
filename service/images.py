"""Decoded images, stored for further clicks under the digest of the file they came as."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ctai_sam2.io.uploads import Upload


class ImageStore:
    """The images used last, within a number of bytes. Safe in threads.

    Parameters
    ----------
    max_bytes : int
        Pixels stored, in bytes; the image used last is stored in any case.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._images: OrderedDict[str, Upload] = OrderedDict()

    def get(self, digest: str) -> Upload | None:
        """Return an image, or None where it is not stored (any more)."""
        with self._lock:
            if digest in self._images:
                self._images.move_to_end(digest)
            return self._images.get(digest)

    def put(self, digest: str, upload: Upload) -> None:
        """Store an image, instead of those not used for longest."""
        upload.pixels.setflags(write=False)
        with self._lock:
            self._images[digest] = upload
            self._images.move_to_end(digest)
            while len(self._images) > 1 and self._count_bytes() > self._max_bytes:
                self._images.popitem(last=False)

    def usage(self) -> tuple[int, int]:
        """Count the images stored, and their bytes."""
        with self._lock:
            return len(self._images), self._count_bytes()

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._images.clear()

    def _count_bytes(self) -> int:
        return sum(upload.pixels.nbytes for upload in self._images.values())
