"""What a compiled program sends between devices, read from its text.

Bodies of loops count as often as they run. An operation that the compiler cut into steps, to hide it behind others, has
one channel in all of them and counts once.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"= (?P<shape>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_LOOP = re.compile(r" while\(.*condition=%?(?P<condition>[\w.\-]+).*body=%?(?P<body>[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[(\d+),(\d+)\])")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """Of one kind of collective in one run of the program."""

    count: int
    bytes: int  # that one device sends


def traffic(program: str) -> dict[str, Traffic]:
    """Kind -> how often and how much. A branch that may not be taken counts as taken.

    Args:
      program: `compiled.as_text()`.
    """
    computations, entry = _computations(program)
    counts: Counter = Counter()
    sent: Counter = Counter()
    channels = set()

    def is_new(line: str) -> bool:
        channel = _CHANNEL.search(line)
        if channel is None:
            return True
        new = channel[1] not in channels
        channels.add(channel[1])
        return new

    def walk(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            found = _OPERATION.search(line)
            if found and is_new(line):
                counts[found["kind"]] += times
                scatters = name.startswith("all-reduce-scatter")  # what TPUs make of a reduce-scatter
                sent[found["kind"]] += times * _sent(found["kind"], found, line, scatters=scatters)
            loop = _LOOP.search(line)
            if loop:
                walk(loop["body"], times * _trips(line, computations.get(loop["condition"], [])))
            branches = [branch.strip(" %") for names in _BRANCHES.findall(line) for branch in names.split(",")]
            for called in _CALLED.findall(line) + branches:
                walk(called, times)

    walk(entry, 1)
    return {kind: Traffic(counts[kind], sent[kind]) for kind in KINDS if counts[kind]}


def _trips(loop: str, condition: list[str]) -> int:
    """How often a loop runs: the compiler says so, or its counter is compared with a constant."""
    known = _TRIPS.search(loop)
    limits = [int(limit) for line in condition for limit in _LIMIT.findall(line)]
    return int(known[1]) if known else max(limits, default=1)


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in program.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            lines = found[head["name"]] = []
            entry = head["name"] if head["entry"] else entry
        else:
            lines.append(line)
    return found, entry


def _sent(kind: str, found: re.Match, line: str, *, scatters: bool) -> int:
    """Bytes that a device sends, by the rings that networks of chips use."""
    arrays = _ARRAY.findall(found["shape"])
    total = sum(SIZES.get(kind, 0) * math.prod(map(int, filter(None, sides.split(",")))) for kind, sides in arrays)
    groups = _GROUPS.search(line)
    size = (groups[1].count(",") + 1 if groups[1] else int(groups[3])) if groups else 2
    if found["start"] and kind in ("all-gather", "collective-permute"):  # names its input beside its output
        total = total * size / (size + 1) if kind == "all-gather" else total / 2
    whole = total * size if kind == "reduce-scatter" else total
    if kind == "collective-permute":
        return int(whole)
    rounds = 2 if kind == "all-reduce" and not scatters else 1
    return int(rounds * whole * (size - 1) / size)
