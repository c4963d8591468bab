"""Sockets: one WebSocket's life, from its handshake to its end."""
