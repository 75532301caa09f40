"""Structure-aware changes of valid inputs: what a fuzz target is fed with.

Every function takes a `random.Random`, so a seed names the whole run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

INTS = (0, 1, -1, 2, 7, 255, 4095, 65535, 65536, 65537, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
        2**53, 2**63 - 1, 2**63, 2**64, -2**63, 10**30, 10**400)
FLOATS = (0.0, -0.0, 1.5, -1.5, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", " ", "\0", "a\0b", ".", "..", "../x", "/", "/etc/passwd", "a/../../b", "//", "-", "--",
         "-x", "\n", "\r\n", "\x1b[2J", "\u202eabc", "\ud800", "\udcff", "\U0001f4a5", "e\u0301",
         "null", "NaN", "0", "1e999", "true", "x" * 5000, "é" * 300, "%s%n", "{0}", "[bold]",
         "../" * 50 + "etc/passwd", "0" * 64, "f" * 16, "abcd", "\u0660\u0661", "10m", "∞")
MAX_BYTES = 1 << 16


def number(random: Random) -> Any:
    """Return a number at some border."""
    value = random.choice(INTS if random.random() < 0.8 else FLOATS)
    return value + random.randint(-2, 2) if random.random() < 0.3 else value


def text(random: Random) -> str:
    """Return a string that has given somebody trouble."""
    if random.random() < 0.7:
        return random.choice(TEXTS)
    return "".join(chr(random.choice((random.randrange(32), random.randrange(128),
                                      random.randrange(0xD800, 0xE000), random.randrange(0x3000))))
                   for _ in range(random.randrange(20)))


def value(random: Random, depth: int = 3) -> Any:
    """Return some JSON value."""
    kind = random.randrange(8 if depth else 6)
    if kind < 2:
        return number(random)
    if kind < 4:
        return text(random)
    if kind < 6:
        return random.choice((None, True, False, [], {}))
    if kind == 6:
        return [value(random, depth - 1) for _ in range(random.randrange(4))]
    return {text(random): value(random, depth - 1) for _ in range(random.randrange(4))}


def nested(random: Random) -> str:
    """Return JSON of a depth that no parser likes."""
    depth = random.choice((50, 900, 1100, 20_000))
    opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
    inner = "1" if opening == '{"a":' else ""
    return opening * depth + inner + (closing * depth if random.random() < 0.5 else "")


def mutated_json(data: bytes, random: Random) -> bytes:
    """Return the JSON document `data` with one or a few values, keys or items changed."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutated_bytes(data, random)
    if random.random() < 0.01:
        return nested(random).encode()
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        document = _changed(document, random)
    return json.dumps(document, ensure_ascii=random.random() < 0.9).encode("utf-8", "replace")


def _changed(document: Any, random: Random) -> Any:
    path: list[tuple[Any, Any]] = []
    here = document
    while isinstance(here, (dict, list)) and here and random.random() < 0.85:
        key = random.choice(list(here)) if isinstance(here, dict) else random.randrange(len(here))
        path.append((here, key))
        here = here[key]
    new = _replacement(here, random)
    if not path:
        return new
    holder, key = path[-1]
    act = random.random()
    if act < 0.1:
        del holder[key]
    elif act < 0.2 and isinstance(holder, list):
        holder.insert(key, holder[random.randrange(len(holder))])
    elif act < 0.2:
        holder[text(random)] = holder[key]
    else:
        holder[key] = new
    return document


def _replacement(here: Any, random: Random) -> Any:
    act = random.random()
    if isinstance(here, str) and act < 0.5:
        return mutated_text(here, random)
    if isinstance(here, (int, float)) and not isinstance(here, bool) and act < 0.5:
        return number(random) if act < 0.3 else here + random.choice((-1, 1, 2**32))
    if isinstance(here, list) and act < 0.3:
        return here * random.choice((0, 2, 30))
    return value(random)


def mutated_text(given: str, random: Random) -> str:
    """Return `given` with a part of it exchanged."""
    act = random.randrange(5)
    cut, end = sorted(random.randrange(len(given) + 1) for _ in range(2))
    if act == 0:
        return text(random)
    if act == 1:
        return given[:cut] + text(random) + given[cut:]
    if act == 2:
        return given[:cut] + given[end:]
    if act == 3:
        return given * random.choice((2, 3, 50))
    return given[:cut] + chr(random.randrange(0x3000)) + given[cut + 1:]


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """Return `data` flipped, truncated, extended, spliced, or plain noise."""
    found = bytearray(data[:MAX_BYTES])
    for _ in range(random.choice((1, 1, 2, 5))):
        act = random.randrange(8)
        place = random.randrange(len(found) + 1)
        if act == 0 and found:
            found[place % len(found)] ^= 1 << random.randrange(8)
        elif act == 1:
            del found[place:]
        elif act == 2:
            found[place:place] = random.randbytes(random.choice((1, 2, 4, 8, 100)))
        elif act == 3 and found:
            end = min(len(found), place + random.randrange(64))
            other = random.randrange(len(found))
            found[other:other] = found[place:end]
        elif act == 4:
            size = random.choice((1, 2, 4, 8))
            border = random.choice(INTS) % (1 << 8 * size)
            found[place:place + size] = border.to_bytes(size, random.choice(("little", "big")))
        elif act == 5:
            found[place:place + random.randrange(32)] = b""
        elif act == 6:
            found[place:place] = random.choice(TEXTS).encode("utf-8", "replace")
        elif random.random() < 0.2:
            found = bytearray(random.randbytes(random.randrange(200)))
    return bytes(found[:MAX_BYTES])


Mutator = Callable[[bytes, Random], bytes]


def either(*ways: Mutator) -> Mutator:
    """Return a mutator that takes one of `ways` each time, the first most often."""
    weights = [len(ways) * 2, *[1] * (len(ways) - 1)]

    def mutate(data: bytes, random: Random) -> bytes:
        (way,) = random.choices(ways, weights)
        return way(data, random)

    return mutate


json_mutator = either(mutated_json, mutated_bytes)


def with_tokens(tokens: Sequence[bytes]) -> Mutator:
    """Return a mutator of text made of `tokens`: it inserts, repeats and exchanges them."""

    def mutate(data: bytes, random: Random) -> bytes:
        place = random.randrange(len(data) + 1)
        end = place + random.choice((0, 0, 1, 10))
        token = random.choice(tokens) * random.choice((1, 1, 2, 40))
        return (data[:place] + token + data[end:])[:2 * MAX_BYTES]

    return either(mutate, mutated_bytes)
