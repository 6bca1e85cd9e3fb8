"""Decoded images, kept for further clicks under the digest of the file they came as."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ctai_sam2.io.uploads import Upload


class ImageStore:
    """The images used last, within a number of bytes. Safe in threads.

    Parameters
    ----------
    max_bytes : int
        Pixels kept, in bytes; the one used last is kept in any case.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._images: OrderedDict[str, Upload] = OrderedDict()
        self._bytes = 0

    def get(self, digest: str) -> Upload | None:
        """Return an image, or None where it is not kept (any more)."""
        with self._lock:
            upload = self._images.get(digest)
            if upload is not None:
                self._images.move_to_end(digest)
            return upload

    def put(self, digest: str, upload: Upload) -> None:
        """Keep an image; let go of those not used for longest."""
        upload.pixels.setflags(write=False)
        with self._lock:
            known = self._images.pop(digest, None)
            self._bytes += upload.pixels.nbytes - (0 if known is None else known.pixels.nbytes)
            self._images[digest] = upload
            while self._bytes > self._max_bytes and len(self._images) > 1:
                _, dropped = self._images.popitem(last=False)
                self._bytes -= dropped.pixels.nbytes

    def usage(self) -> tuple[int, int]:
        """Count the images kept, and their bytes."""
        with self._lock:
            return len(self._images), self._bytes

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._images.clear()
            self._bytes = 0
