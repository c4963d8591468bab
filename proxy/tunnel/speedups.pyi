from collections.abc import Callable

from proxy.tunnel.base_leg import PythonBaseLeg, State
from proxy.tunnel.encoder import Encoder
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.walker import FrameWalker as PythonFrameWalker

class BaseLeg(PythonBaseLeg): ...
class FrameWalker(PythonFrameWalker): ...

class Repeater:
    def __init__(self, audio_filter: AudioFilter, encoder: Encoder) -> None: ...

def now() -> int: ...
def share(
    read: memoryview,
    is_open: State,
    seconds: tuple[float, ...],
    build: Callable[[str, int, int], bytes],
) -> None: ...
