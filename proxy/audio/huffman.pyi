from collections.abc import Callable

from proxy.audio.pcm import Buffer

def compress(
    data: Buffer,
    crc32: Callable[[Buffer], int],
    otherwise: Callable[..., bytes],
    /,
    *rest: int,
) -> bytes:
    """One gzip member, by Huffman coding alone; `otherwise(data, *rest)` where `data` is empty,
    larger than 64 KiB, or becomes so small that more must repeat in it."""
