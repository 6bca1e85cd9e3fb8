"""JPEG and JPEG-LS frames of DICOM files decoded by imagecodecs, as a plugin of pydicom.

It covers 12-bit JPEG Extended and lossless JPEG, which pydicom's other permissively licensed plugins do not.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

_NAME = "imagecodecs"
_JPEG = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
)

DECODER_DEPENDENCIES = dict.fromkeys(_JPEG, ("numpy", _NAME))
"""Read by pydicom."""


def is_available(transfer_syntax: str) -> bool:
    """Tell pydicom that this plugin decodes a transfer syntax."""
    return transfer_syntax in _JPEG


def decode_frame(encoded: bytes, runner: DecodeRunner) -> bytearray:
    """Return a frame's pixels as little-endian bytes; called by pydicom.

    Parameters
    ----------
    encoded : bytes
        One frame.
    runner : DecodeRunner
        What the header says; the bits allocated are set to those decoded.

    Raises
    ------
    RuntimeError
        If the frame is damaged.
    """
    import imagecodecs

    if runner.transfer_syntax in uid.JPEGLSTransferSyntaxes:
        frame = imagecodecs.jpegls_decode(encoded)
        runner.set_option("planar_configuration", 0)
    else:
        frame = imagecodecs.jpeg_decode(encoded)
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    little = frame.astype(frame.dtype.newbyteorder("<"), copy=False) if sys.byteorder == "big" else frame
    return bytearray(little.tobytes())


def register() -> None:
    """Add the plugin to pydicom's decoders; calling it again changes nothing."""
    for decoder in map(get_decoder, _JPEG):
        if _NAME not in decoder.available_plugins:
            decoder.add_plugin(_NAME, (__name__, "decode_frame"))
