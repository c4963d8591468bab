"""HTTP: the public port, and requests to the backend."""
