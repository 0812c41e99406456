"""Traffic between devices of a compiled program, read from its text.

Bodies of loops count once per iteration. An operation that the compiler split into steps, to overlap it with others,
has one channel in all of them and counts once; an iteration peeled off a loop has the loop's channels and counts again.
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
_CONSTANT = re.compile(r"(%[\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_COUNTER = re.compile(r"= [su]32\[\]\S* get-tuple-element\(.*\), index=(\d+)")
_STARTS = re.compile(r" while\((%[\w.\-]+)\)")
_COPIED = re.compile(r"\S+ copy\((%[\w.\-]+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[(\d+),(\d+)\])")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_USED = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """Traffic of one kind of collective in one run of the program."""

    count: int
    bytes: int  # sent by one device


def traffic(program: str) -> dict[str, Traffic]:
    """Traffic by kind of collective. Conditional branches count as taken.

    Args:
      program: `compiled.as_text()`.
    """
    computations, entry = _computations(program)
    counts: Counter = Counter()
    sent: Counter = Counter()

    def walk(name: str, times: int, channels: set[str]) -> None:
        lines = computations.get(name, [])
        for line in lines:
            found = _OPERATION.search(line)
            if found and _is_new(line, channels):
                counts[found["kind"]] += times
                scatters = name.startswith("all-reduce-scatter")  # the form of a reduce-scatter on TPUs
                sent[found["kind"]] += times * _sent(found["kind"], found, line, scatters=scatters)
            loop = _LOOP.search(line)
            if loop:
                walk(loop["body"], times * _trips(line, computations.get(loop["condition"], []), lines), set())
            branches = [branch.strip(" %") for names in _BRANCHES.findall(line) for branch in names.split(",")]
            for called in _CALLED.findall(line) + branches:
                walk(called, times, channels)

    walk(entry, 1, set())
    return {kind: Traffic(counts[kind], sent[kind]) for kind in KINDS if counts[kind]}


def _is_new(operation: str, channels: set[str]) -> bool:
    """True unless this is another step of a known operation; records its channel."""
    channel = _CHANNEL.search(operation)
    if channel is None:
        return True
    new = channel[1] not in channels
    channels.add(channel[1])
    return new


def _trips(loop: str, condition: list[str], around: list[str]) -> int:
    """Iterations of a loop, stated by the compiler or from the constant that its counter is compared with.

    Args:
      around: lines of the computation that contains the loop, which sets the counter's first value.
    """
    known = _TRIPS.search(loop)
    if known:
        return int(known[1])
    limits = [int(limit) for line in condition for _, limit in _CONSTANT.findall(line)]
    counters = [int(index) for line in condition for index in _COUNTER.findall(line)]
    if len(limits) != 1 or len(counters) != 1:
        return max(limits, default=1)
    return limits[0] - _first_value(loop, counters[0], around)


def _first_value(loop: str, index: int, around: list[str]) -> int:
    """First value of an element of a loop's tuple; 0 if it is not a constant."""
    values = {name: text for name, _, text in (line.strip().partition(" = ") for line in around)}
    constants = {name: int(value) for line in around for name, value in _CONSTANT.findall(line)}
    tuple_ = _STARTS.search(loop)
    elements = re.findall(r"%[\w.\-]+", values.get(tuple_[1], "").partition(" tuple(")[2]) if tuple_ else []
    name = elements[index] if index < len(elements) else ""
    while (copied := _COPIED.match(values.get(name, ""))) is not None:
        name = copied[1]
    return constants.get(name, 0)


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
    """Bytes that a device sends in the ring algorithms of chip networks."""
    arrays = _ARRAY.findall(found["shape"])
    total = sum(SIZES.get(kind, 0) * math.prod(map(int, filter(None, sides.split(",")))) for kind, sides in arrays)
    size = _group_size(line)
    if found["start"] and kind in ("all-gather", "collective-permute"):  # its shape lists the input before the output
        total = total * size / (size + 1) if kind == "all-gather" else total / 2
    whole = total * size if kind == "reduce-scatter" else total
    if kind == "collective-permute":
        return int(whole)
    rounds = 2 if kind == "all-reduce" and not scatters else 1
    return int(rounds * whole * (size - 1) / size)


def _group_size(line: str) -> int:
    """Devices that take part in one collective, listed or as axes of a mesh; 2 where nothing is said of them."""
    axes, groups = _AXES.search(line), _GROUPS.search(line)
    if axes:
        sizes = {name: int(size) for name, size in _AXIS.findall(axes[1])}
        return math.prod(int(part or sizes[name]) for name, part in _USED.findall(axes[2]))
    if groups:
        return groups[1].count(",") + 1 if groups[1] else int(groups[3])
    return 2
