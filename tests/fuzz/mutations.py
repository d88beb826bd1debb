"""Ways to damage bytes: at random, and so that length fields and checksums still hold."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from tests.checkpoints.damage import records

if TYPE_CHECKING:
    import random

_NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**61 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_VALUES = (
    *("null", "true", "false", "-1", "0", "1.9", "1e400", "-1e308", "NaN", "Infinity", '""', '"1"', '"\\u0000"'),
    *("[]", "{}", "[[]]", '{"a":{}}', str(2**63), str(2**64), "9" * 400, '"' + "x" * 3000 + '"', '"../../etc"'),
    *('"/etc/passwd"', '"\\ud800"', '"\\u001b[2J"', "[" * 40 + "]" * 40, "[1,2,3]", "[-1,-1]", '"F32"', '"I64"'),
)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|[][{}:,]')


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes with one to four wounds: bits, bytes, numbers of 2, 4 and 8 bytes, cuts, ranges doubled, moved, removed or zeroed."""
    new = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(new) + 1)
        size = chance.choice((1, 2, 4, 8, 16, 64, 512))
        kind = chance.randrange(9)
        if kind == 0 and at < len(new):
            new[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            new[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            width = chance.choice((2, 4, 8))
            number = chance.choice(_NUMBERS) % 2 ** (8 * width)
            new[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif kind == 3:
            del new[at:]
        elif kind == 4:
            new[at:at] = new[at : at + size] * chance.choice((1, 1, 3, 100))
        elif kind == 5:
            del new[at : at + size]
        elif kind == 6:
            new[at : at + size] = bytes(len(new[at : at + size]))
        elif kind == 7:
            other = chance.randrange(len(new) + 1)
            new[at : at + size] = new[other : other + size]
        else:
            new[at:at] = chance.randbytes(size)
    return bytes(new)


def mutated_json(data: bytes, chance: random.Random) -> bytes:
    """A JSON text with some of its values and signs replaced by others, or damaged at random."""
    tokens = list(_TOKEN.finditer(data))
    if not tokens or chance.random() < 0.2:
        return mutated(data, chance)
    for found in sorted(chance.sample(tokens, min(len(tokens), chance.choice((1, 1, 2, 5)))), key=lambda m: -m.start()):
        kind = chance.randrange(5)
        new = b"" if kind == 0 else chance.choice(tokens)[0] if kind < 3 else chance.choice(_VALUES).encode()
        data = data[: found.start()] + new + data[found.end() :]
    return data


def in_zip(data: bytes, chance: random.Random) -> bytes:
    """A torch zip whose pickle is damaged, under a checksum that holds."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name, _, start, end in records(data):
            record = data[start:end]
            new.writestr(zipfile.ZipInfo(name), mutated(record, chance) if name.endswith("data.pkl") else record)
    return out.getvalue()


def in_header(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header is damaged, with the length that it has."""
    (length,) = struct.unpack_from("<Q", data)
    header = mutated_json(data[8 : 8 + length], chance)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def in_lines(data: bytes, chance: random.Random) -> bytes:
    """A journal with lines damaged under checksums that hold, doubled, moved or left out."""
    lines = data.splitlines(keepends=True)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(lines))
        kind = chance.randrange(8)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(chance.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            lines[at] = mutated(lines[at], chance)
        else:
            lines[at] = checked(mutated_json(lines[at].rpartition(b',"crc":')[0] + b"}", chance))
    return b"".join(lines)


def checked(body: bytes) -> bytes:
    """A line of a journal with the checksum of its body."""
    head = body.removesuffix(b"}")
    return head + b',"crc":%d}\n' % zlib.crc32(head + b"}")
