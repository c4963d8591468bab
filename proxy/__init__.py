"""audio-proxy: the speech a backend streams, made smaller for the clients that ask.

The way of the data:

    client ── http.front ── a handshake ──► tunnel.upgrade ── http.upstream ──► backend
                  │                          (opt-in: tunnel.handshake)
                  └──────── plain HTTP ───► http.passthrough ─ http.upstream ──► backend

    after the 101, two legs and nothing else (tunnel.tunnel):

    client ──► Leg ─────────────────── verbatim ──────────────────────────────► backend
    client ◄── BackendLeg ◄ bytes, whose frames are walked ─────────────────── backend
    client ◄── FilteredLeg ◄ websocket.audio_filter ◄ bytes ────────────────── backend
                              ├ websocket.splitter   whole binary messages, lifted out
                              ├ audio.stream         what is it? WAV, MP3, raw samples…
                              ├ audio.chooser        which of gzip and flac? did it pay?
                              ├ websocket.speaker    does it become Opus?
                              └ tunnel.encoder       where and when the codec runs

`control` holds the operator's flags, statistics and admin port; `app` wires it all into a worker,
and `workers` keeps as many of them as are wanted.
"""

__version__ = "0.1.0"
