"""The wire protocol between clients and the daemon: bytes in, messages out, and back.

Nothing here knows a socket, a clock or a bus.  `connection` puts it together:
feed it what arrived, ask it for the next message, write what `send` returns.
`docs/reference/wire.md` has the protocol for those who speak it in another
language.
"""
