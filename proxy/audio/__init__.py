"""What is in a chunk, and how to make it smaller. Pure: no asyncio, no sockets."""
