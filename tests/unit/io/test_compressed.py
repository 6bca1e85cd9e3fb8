from __future__ import annotations

import bz2
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctai_sam2.errors import InputError
from ctai_sam2.io.compressed import bunzip2, gunzip


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3), st.binary(max_size=5))
def test_members_after_each_other_are_one_stream_and_the_rest_is_counted(
    parts: list[bytes], rest: bytes
) -> None:
    tail = b"x" + rest.replace(b"\0", b"y") if rest else b""
    for pack, unpack in ((gzip.compress, gunzip), (bz2.compress, bunzip2)):
        data = b"".join(pack(part) for part in parts) + tail
        assert unpack(data, limit=1000, name="a", kind="NIfTI") == (b"".join(parts), len(tail))


@pytest.mark.parametrize("bit", range(8))
def test_each_flipped_bit_of_a_stream_is_found(bit: int) -> None:
    whole = b"some voxels, some more voxels" * 4
    packed = gzip.compress(whole, mtime=0)
    for at in range(10, len(packed)):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << bit
        content = content_or_none(bytes(damaged))
        # The bits between the end of the data and the checksum mean nothing.
        assert content is None or (content == whole and at == len(packed) - 9)


def content_or_none(data: bytes) -> bytes | None:
    try:
        return gunzip(data, limit=1 << 16, name="a.nii.gz", kind="NIfTI")[0]
    except InputError:
        return None


def test_no_more_than_the_limit_is_inflated() -> None:
    bomb = gzip.compress(bytes(1 << 24))
    with pytest.raises(InputError, match="holds more than its header declares"):
        gunzip(bomb, limit=1000, name="a", kind="NIfTI")
