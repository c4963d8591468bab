"""Every error this package raises on purpose: one tree, and whose fault it was in the type."""


class AudioProxyError(Exception):
    """Base of all of them."""


class ConfigError(AudioProxyError):
    """A setting is wrong. The message names the setting and says what it takes."""


class FlagsError(AudioProxyError):
    """A flag update is invalid. The message names the flag; the old record stays in force."""


class StoreError(FlagsError):
    """Flags cannot be read from where they are kept, or not be written there."""


class ConflictError(FlagsError):
    """Somebody else has changed the flags in the meantime."""


class QueryError(AudioProxyError):
    """A parameter of a question to the admin port is wrong. The message names it."""


class CodecError(AudioProxyError):
    """Data could not be encoded or decoded."""


class DiscontinuityError(CodecError):
    """A chunk does not go on where the audio before it ended."""


class FrameError(AudioProxyError):
    """Bytes are not a WebSocket frame that a server may send to a client (RFC 6455 section 5)."""


class AudioFrameError(AudioProxyError):
    """A compressed audio pair is broken. The message names the frame that is."""


class RelayError(AudioProxyError):
    """A request could not be relayed. `status` is the HTTP status to answer it with.

    The message is sent to the client as it is: it says what happened and nothing secret.
    """

    status = 500


class ClientError(RelayError):
    """The client's request cannot be relayed."""

    status = 400


class ClientTimeoutError(ClientError):
    """The client's request did not come whole within `stall_timeout`."""

    status = 408


class TooManyConnectionsError(ClientError):
    """This proxy serves `max_connections` already."""

    status = 503


class BackendError(RelayError):
    """The backend cannot be reached, or its answer cannot be relayed."""

    status = 502


class BackendTimeoutError(BackendError):
    """The backend took longer than `handshake_timeout`, or fell silent in mid-body."""

    status = 504
