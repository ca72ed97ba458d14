"""Files damaged without regard to what they mean: bits, cuts, repetitions."""

from __future__ import annotations

import random

_ODD = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",  # half a surrogate pair
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b'"',
    b"'",
    b"\\",
    b"\x1b[31m",
    b"[" * 5_000,
    b"{" * 5_000,
    b'{"a":' * 3_000,
    b"9" * 6_000,
    b"-",
    b"NaN",
    b"1e999",
    b"null",
    "\u202e".encode(),
    "\u2028".encode(),
)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes with one thing done to them."""
    if not data:
        return rng.choice(_ODD)
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    short = min(b, a + rng.choice((1, 2, 8, 64)))
    match rng.randrange(10):
        case 0:  # a bit
            return data[:a] + bytes([data[a] ^ 1 << rng.randrange(8)]) + data[a + 1 :] if a < len(data) else data[:-1]
        case 1:  # a few bytes
            return data[:a] + rng.randbytes(short - a) + data[short:]
        case 2:  # the end is missing
            return data[:a]
        case 3:  # the beginning is missing
            return data[a:]
        case 4:  # a piece is missing
            return data[:a] + data[short:]
        case 5:  # a piece is there twice
            return data[:b] + data[a:b] + data[b:]
        case 6:  # a piece is there very often
            piece = data[a:short] or b" "
            return data[:a] + piece * (rng.choice((10, 1_000, 20_000)) // len(piece) + 1) + data[short:]
        case 7:  # two pieces have changed places
            return data[a:b] + data[:a] + data[b:]
        case 8:  # a digit is another
            places = [place for place, byte in enumerate(data) if chr(byte).isdigit()][:10_000]
            place = rng.choice(places) if places else a
            return (
                data[:place]
                + rng.choice((b"0", b"-1", b"9" * 20, b"1e400", b"18446744073709551615"))
                + data[place + 1 :]
            )
        case _:
            return data[:a] + rng.choice(_ODD) + data[a:]
