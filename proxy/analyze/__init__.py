"""`audio-proxy analyze`: what the proxy would save of recordings, and what it would pick."""
