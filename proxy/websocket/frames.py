"""RFC 6455 section 5.2: the header of a frame that a server sends, read and written."""

from __future__ import annotations

from proxy.errors import FrameError

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

NO_CODE = 1005
"""Stands for a close frame that says none (RFC 6455 section 7.4.1). It is never sent."""

FIN = 0x80
_RSV = 0x70
_MASK = 0x80

# Indexed by the low nibble of a frame's first byte.
_KNOWN = [op in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG) for op in range(16)]


def parse_header(data: bytes | bytearray, at: int) -> tuple[int, int, int] | None:
    """Read the header of the frame that starts at `data[at]`.

    Returns (first byte, header size in bytes, payload size in bytes), or None while the header
    is incomplete. Raises FrameError where the frame is not one that a server may send to a
    client that negotiated no extension: masked, reserved bits or opcodes (5.2), a control frame
    that is fragmented or longer than 125 bytes (5.5), a size with its highest bit set.
    """
    if len(data) - at < 2:
        return None
    first = data[at]
    size = data[at + 1]
    if first & _RSV or not _KNOWN[first & 0x0F]:
        raise FrameError(f"a reserved bit or opcode is set (first byte 0x{first:02x})")
    if size & _MASK:
        raise FrameError("the backend sent a masked frame")
    if first & 0x08 and (size > 125 or not first & FIN):
        raise FrameError("a control frame is fragmented or longer than 125 bytes")
    if size < 126:
        return first, 2, size
    if size == 126:
        if len(data) - at < 4:
            return None
        return first, 4, data[at + 2] << 8 | data[at + 3]
    if len(data) - at < 10:
        return None
    size = int.from_bytes(data[at + 2 : at + 10], "big")
    if size >> 63:
        raise FrameError("a frame's size has its highest bit set")
    return first, 10, size


def run_length(data: bytes | bytearray, at: int, header_size: int, step: int, most: int) -> int:
    """How many frames in a row are like the one that starts at `data[at]`: the same header, every
    `step` bytes. At most `most`, whose headers must be within `data`.
    """
    if most < 2:
        return most
    header = data[at : at + header_size]
    if header_size == 4 and not step % 4:
        # All at once, as every so many of words of four bytes: of 60 frames it takes 1 us, not 8.
        words = memoryview(data)[at : at + step * most - step + 4].cast("I")[:: step // 4]
        if words.tobytes() == header * most:
            return most
    run, at = 1, at + step
    while run < most and data[at : at + header_size] == header:
        run += 1
        at += step
    return run


def build_header(opcode: int, size: int) -> bytes:
    """The header of an unfragmented, unmasked frame with a payload of `size` bytes."""
    if size < 126:
        return bytes((FIN | opcode, size))
    if size < 65536:
        return bytes((FIN | opcode, 126, size >> 8, size & 0xFF))
    return bytes((FIN | opcode, 127)) + size.to_bytes(8, "big")


def close_code(frame: bytes) -> int:
    """What a close frame says (RFC 6455 section 5.5.1), `NO_CODE` if nothing, or nothing yet."""
    size, body = frame[1] & 0x7F, 2
    key = b"\0\0"
    if frame[1] & 0x80:
        key, body = frame[2:4], 6  # two of its four bytes are enough
    if not 2 <= size <= 125 or len(frame) < body + 2:
        return NO_CODE
    return int.from_bytes(
        bytes(a ^ b for a, b in zip(frame[body : body + 2], key, strict=True)), "big"
    )
