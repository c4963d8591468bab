"""RFC 6455 bytes. Pure: no asyncio, no sockets."""
