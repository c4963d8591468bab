"""The frame format of FLAC (RFC 9639 section 9): frames numbered anew, and frames of plain samples.

Every frame carries its position in the stream and two checksums that cover it. To put a frame that
an encoder made in mid-stream at the start of another stream, the number is written anew and both
checksums follow; no sample is touched.
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview

SMALLEST_BLOCK = 16
"""Samples per channel that every frame but a stream's last has at least (section 8.2)."""

_SYNC_VARIABLE = b"\xff\xf9"
"""Sync code and the bit for blocks of different sizes, which are numbered by their first sample."""

_RATES = {8000: 4, 16_000: 5, 22_050: 6, 24_000: 7, 32_000: 8, 44_100: 9, 48_000: 10, 96_000: 11}
_RATE_IN_STREAMINFO = 0
_DEPTHS = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6}
_BLOCK_SIZE_16_BIT = 7  # the block size stands at the header's end, less one
_VERBATIM = 0b0000_0010  # subframe header of samples as they are


def _crc8_table() -> bytes:
    """Polynomial x^8 + x^2 + x + 1 (section 9.1.8)."""
    table = bytearray()
    for value in range(256):
        for _ in range(8):
            value = (value << 1) ^ (0x107 if value & 0x80 else 0)
        table.append(value)
    return bytes(table)


def _crc16_table() -> list[int]:
    """Polynomial x^16 + x^15 + x^2 + 1 (section 9.3)."""
    table = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1) ^ (0x1_8005 if value & 0x8000 else 0)
        table.append(value)
    return table


_CRC8 = _crc8_table()
_CRC16 = _crc16_table()


def _shift_tables() -> list[tuple[list[int], list[int]]]:
    """For k = 0, 1, …: what 2^k zero bytes make of a CRC-16, by its high and its low byte."""

    def shift(crc: int) -> int:
        return ((crc << 8) & 0xFF00) ^ _CRC16[crc >> 8]

    high, low = [shift(value << 8) for value in range(256)], [shift(value) for value in range(256)]
    tables = [(high, low)]
    while len(tables) < 20:
        # Checksums are linear, and a shift by 2n is a shift by n, twice.
        high, low = ([high[crc >> 8] ^ low[crc & 0xFF] for crc in half] for half in (tables[-1]))
        tables.append((high, low))
    return tables


_SHIFTS = _shift_tables()


def _rate_code(rate: int) -> int:
    """A frame header's word for a sample rate in Hz (section 9.1.2)."""
    return _RATES.get(rate, _RATE_IN_STREAMINFO)


def crc8(data: Buffer) -> int:
    """The checksum at the end of a frame header (section 9.1.8)."""
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def crc16(data: Buffer) -> int:
    """The checksum at the end of a frame (section 9.3)."""
    crc = 0
    for byte in data:
        crc = ((crc << 8) & 0xFF00) ^ _CRC16[(crc >> 8) ^ byte]
    return crc


def _shifted(crc: int, zeros: int) -> int:
    """The CRC-16 of what has `crc`, with so many zero bytes behind it."""
    for high, low in _SHIFTS:
        if zeros & 1:
            crc = high[crc >> 8] ^ low[crc & 0xFF]
        zeros >>= 1
        if not zeros:
            break
    return crc


def _number(value: int) -> bytes:
    """A coded number, as UTF-8 writes one of up to 36 bits (section 9.1.5)."""
    if value < 0x80:
        return bytes((value,))
    tail = bytearray()
    lead = 0x3F
    while value > lead:
        tail.append(0x80 | value & 0x3F)
        value >>= 6
        lead >>= 1
    tail.append((2 * lead + 1) ^ 0xFF | value)
    tail.reverse()
    return bytes(tail)


def _number_size(first: int) -> int:
    """Bytes of a coded number, by its first one."""
    return 1 if first < 0x80 else 8 - (first ^ 0xFF).bit_length()


def renumbered(frame: bytes, first_sample: int, rate: int) -> bytes:
    """`frame`, as the one that begins with sample `first_sample` of a stream of `rate` Hz.

    The rate that it was made for must have a code of its own, as all in `_RATES` do.
    """
    block_code = frame[2] >> 4
    number_end = 4 + _number_size(frame[4])
    size_end = number_end + (block_code - 5 if block_code in (6, 7) else 0)
    header = _SYNC_VARIABLE + bytes((block_code << 4 | _rate_code(rate), frame[3]))
    header += _number(first_sample) + frame[number_end:size_end]
    header += bytes((crc8(header),))
    body = frame[size_end + 1 : -2]
    # CRC(header + body) = shifted(CRC(header)) ^ CRC(body): the body's own part stays.
    change = crc16(header) ^ crc16(frame[: size_end + 1])
    crc = int.from_bytes(frame[-2:], "big") ^ _shifted(change, len(body))
    return header + body + crc.to_bytes(2, "big")


def verbatim(samples: Buffer, first_sample: int, rate: int, channels: int, bits: int) -> bytes:
    """A frame of samples as they are: interleaved, little-endian, `bits` (16 or 24) wide."""
    width = bits // 8
    stride = width * channels
    header = _SYNC_VARIABLE + bytes(
        (
            _BLOCK_SIZE_16_BIT << 4 | _rate_code(rate),
            (channels - 1) << 4 | _DEPTHS[bits] << 1,
        )
    )
    header += _number(first_sample) + (len(samples) // stride - 1).to_bytes(2, "big")
    frame = bytearray(header)
    frame.append(crc8(header))
    for channel in range(channels):
        frame.append(_VERBATIM)
        subframe = bytearray(len(samples) // channels)
        for byte in range(width):
            subframe[width - 1 - byte :: width] = samples[channel * width + byte :: stride]
        frame += subframe
    return bytes(frame) + crc16(frame).to_bytes(2, "big")


def stream_info(blocks: list[int], rate: int, channels: int, bits: int, samples: int) -> bytes:
    """The head of a stream that has nothing but STREAMINFO (section 8.2), no checksum of samples.

    `blocks`: samples of each frame. The smallest is told without the last one, as the RFC says.
    """
    smallest = max(SMALLEST_BLOCK, min(blocks[:-1] or blocks))
    packed = rate << 44 | (channels - 1) << 41 | (bits - 1) << 36 | samples
    return (
        b"fLaC\x80\x00\x00\x22"
        + smallest.to_bytes(2, "big")
        + max(SMALLEST_BLOCK, *blocks).to_bytes(2, "big")
        + bytes(6)  # sizes of frames: unknown
        + packed.to_bytes(8, "big")
        + bytes(16)  # MD5 of the samples: not computed
    )
