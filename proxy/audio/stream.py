"""What each chunk of a connection's audio is, told from it and from those that came before."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.audio.formats import Format, parse_wav, recognise, sniff, wrapped
from proxy.audio.mpeg import find_frames, parse_adts_header, parse_mp3_header
from proxy.audio.pcm import FLOATS, Buffer, PcmLayout, guess_layout

Kind = tuple[Format, PcmLayout | None]

_MPEG = {Format.MP3: parse_mp3_header, Format.AAC: parse_adts_header}

_LONGEST_WAIT = 64
"""Chunks of no known format after which the next thorough look is taken, at most."""
_MOST_DOUBTS = 4
"""Doubts of which one is looked into, at most: a look takes 0.2 ms. Loud speech in chunks of 1 KiB
is doubted at each 23rd of them, which took as long as all encoding."""


@dataclass(slots=True)
class Chunk:
    """One binary message of audio."""

    data: Buffer
    format: Format
    layout: PcmLayout | None = None
    """Of its samples, where they are linear or companded PCM."""
    start: int = 0
    """Where its audio begins: the first whole sample of PCM, the first byte of everything else."""
    stop: int = 0
    """Where its last whole sample of PCM ends."""
    end: int = 0
    """Where its samples end, the last perhaps in part: behind it, a WAV has other things."""
    announced: bool = False
    """Its first byte begins a stream: a WAV header, an ID3 tag, a frame, a page."""
    guessed: bool = False
    """Its layout was guessed from the samples: to be used only where a wrong one does no harm."""

    @property
    def kind(self) -> Kind:
        """What decides which codecs can gain: two chunks of one kind fare alike."""
        return self.format, self.layout


class Stream:
    """Follows the audio of one connection. Every binary message is to be shown, or told of."""

    __slots__ = (
        "_doubted",
        "_doubts",
        "_format",
        "_guessed",
        "_layout",
        "_left",
        "_named",
        "_patience",
        "_phase",
        "_unsure",
        "_wait",
    )

    def __init__(self, pcm_layout: PcmLayout | None = None) -> None:
        self._named = pcm_layout
        self._format = Format.UNKNOWN if pcm_layout is None else Format.PCM
        self._layout = pcm_layout
        self._guessed = False
        self._left: int | None = None  # bytes of the WAV's samples still to come, where it says
        self._phase = 0  # bytes of a sample that the chunks so far ended in the midst of
        self._unsure = 0  # chunks until the next thorough look, where nothing is recognised
        self._wait = 1
        self._doubted: Kind | None = None  # what it was taken for, while it is in doubt
        self._doubts = 0  # since it was looked into last
        self._patience = 1  # doubts until the next look, where the last one changed nothing

    @property
    def has_end(self) -> bool:
        """Whether what comes are a WAV's samples, and where they end decides what is next."""
        return self._left is not None

    @property
    def format(self) -> Format:
        """Of the audio that comes."""
        return self._format

    @property
    def kind(self) -> Kind:
        """Of the audio that comes; see `Chunk.kind`."""
        return self._format, self._layout

    def doubt(self) -> None:
        """What was taken for granted did not hold (a codec gained nothing): look anew; ever more
        seldom where it is found to be what it was taken for."""
        if self._format in (Format.UNKNOWN, Format.WAV):
            return  # that is looked at again by itself; a WAV has said what it is
        self._doubts += 1
        if self._doubts < self._patience:
            return
        self._doubted, self._doubts = self.kind, 0
        self._unsure, self._wait = 0, 1
        self._format = Format.UNKNOWN

    def skip(self, size: int | None) -> None:
        """A binary message of `size` bytes (None: not known) has passed without being shown."""
        if size is None:
            self._phase, self._guessed = 0, True
        elif self._layout is not None:
            self._advance(size)

    def recognise(self, data: Buffer) -> Chunk:
        """Tell what a chunk is."""
        announced = sniff(data)
        if announced is not None and (self._is_open_to(announced) or _is_certain(data, announced)):
            return self._begin(data, announced)
        if self._format is Format.UNKNOWN or self._is_named_again(data):
            self._look(data)
        if self._layout is not None:
            return self._samples(data, 0)
        return Chunk(data, self._format, start=wrapped(data) or 0)

    def alike(self, size: int, most: int) -> tuple[Chunk, int] | None:
        """What the next chunks of `size` bytes are, but for their data, and how many of them, at
        most `most`; None where one must be seen. Of those that come, it is to be told by `skip`.

        They begin no other kind of audio. (Floats are to be seen: they may cease to be integers.)
        """
        layout = self._layout
        if layout is None or size % layout.frame_size or layout.encoding == FLOATS:
            return None
        if self._format is Format.UNKNOWN:
            return None  # it is in doubt
        if self._left is not None:
            most = min(most, (self._left - 1) // size)
        if most < 1:
            return None
        start = -self._phase % layout.frame_size
        stop = size - (size - start) % layout.frame_size
        return Chunk(b"", self._format, layout, start, stop, size, guessed=self._guessed), most

    def _is_open_to(self, announced: Format) -> bool:
        """Whether nothing is known that a sync word by itself would speak against."""
        if self._layout is not None:
            return False
        return self._format not in _MPEG or announced is self._format

    def _begin(self, data: Buffer, announced: Format) -> Chunk:
        """A chunk whose first bytes say what it is."""
        self._format, self._layout, self._guessed = announced, None, False
        self._phase, self._left = 0, None
        self._doubted, self._doubts, self._patience = None, 0, 1
        if announced is Format.WAV:
            header = parse_wav(data)
            if header is not None and header.layout is not None:
                self._layout, self._left = header.layout, header.size
                return self._samples(data, header.start, announced=True)
            if header is None:  # it goes on in the next message; its samples can be guessed
                self._format, self._unsure, self._wait = Format.UNKNOWN, 0, 1
        return Chunk(data, announced, announced=True)

    def _samples(self, data: Buffer, begin: int, *, announced: bool = False) -> Chunk:
        """A chunk of PCM, whose samples go on at `begin`."""
        layout = self._layout
        assert layout is not None
        end = len(data)
        if self._left is not None:
            end = min(end, begin + self._left)
        frame = layout.frame_size
        start = min(end, begin + (-self._phase) % frame)
        stop = end - (end - start) % frame
        chunk_format, guessed = self._format, self._guessed
        self._advance(len(data) - begin)
        return Chunk(data, chunk_format, layout, start, stop, end, announced, guessed)

    def _advance(self, size: int) -> None:
        """So many bytes of samples, or of what follows them in a WAV, have come."""
        assert self._layout is not None
        if self._left is not None:
            if size >= self._left:
                # The WAV's end. What comes without a header of its own is what the operator named,
                # or may be more of the same.
                self._format, self._left, self._phase = Format.PCM, None, 0
                self._layout, self._guessed = self._named or self._layout, self._named is None
                return
            self._left -= size
        self._phase = (self._phase + size) % self._layout.frame_size

    def _look(self, data: Buffer) -> None:
        """Look thoroughly, at first at every chunk and then ever more seldom."""
        if self._unsure:
            self._unsure -= 1
            return
        phase = self._phase
        self._find(data)
        if self._doubted is not None:
            is_again = self.kind == self._doubted and self._phase == phase
            self._patience = min(2 * self._patience, _MOST_DOUBTS) if is_again else 1
            self._doubted = None

    def _find(self, data: Buffer) -> None:
        """Tell by all that a chunk has what it is, and where its samples begin."""
        found = recognise(data)
        if found is None and self._named is not None:
            self._format = Format.PCM
            self._realign(data, self._named)
            return
        self._layout, self._guessed, self._phase, self._left = None, False, 0, None
        if found is not None:
            self._format = found[0]
        elif (guess := guess_layout(data)) is not None:
            self._layout, offset = guess
            self._format, self._guessed = Format.PCM, True
            self._phase = (-offset) % self._layout.frame_size
        else:
            self._unsure, self._wait = self._wait, min(2 * self._wait, _LONGEST_WAIT)

    def _is_named_again(self, data: Buffer) -> bool:
        """Whether samples of the layout that was named follow something else."""
        if self._named is None or not self._format.is_compressed:
            return False
        guess = guess_layout(data)
        return guess is not None and guess[0].frame_size == self._named.frame_size

    def _realign(self, data: Buffer, layout: PcmLayout) -> None:
        """Take samples to begin where they seem to, if that is not where they were thought to."""
        if self._layout != layout:
            self._layout, self._guessed, self._phase, self._left = layout, True, 0, None
        guess = guess_layout(data)
        if guess is not None and guess[0].frame_size == layout.frame_size:
            phase = (-guess[1]) % layout.frame_size
            if phase != self._phase:
                self._phase, self._guessed = phase, True


def _is_certain(data: Buffer, announced: Format) -> bool:
    """Whether neither samples nor the midst of other frames can look like this: those of MPEG are
    told by a sync word of 11 or 12 bits."""
    parse = _MPEG.get(announced)
    return parse is None or data[:3] == b"ID3" or find_frames(data, parse) == 0
