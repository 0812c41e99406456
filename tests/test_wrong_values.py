"""Whatever stands in a small file, wrong values end in one sentence that names the file, the key and what is allowed.

Hypothesis builds the wrong values from the schemas themselves, by their JSON schema: another type, out of range, a key
that is missing or unknown, numbers that are none or have 400 digits; and whole files are damaged. `KINDS` names the
files; a new one needs a good example, its schema, and what reads it.
"""

import dataclasses
import functools
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cogvideo_jax.convert.checkpoint_files import open_checkpoint
from cogvideo_jax.data.cache_format import Meta, Plan, ShardNotes
from cogvideo_jax.data.folder import FolderSource, Row
from cogvideo_jax.errors import UserError
from cogvideo_jax.models import registry
from cogvideo_jax.models.cogvideo import descriptions, key_frames_file
from cogvideo_jax.models.cogvideo.convert.model_parallel import merge_ranks
from cogvideo_jax.models.cogvideo.convert.settings import Settings, checked_settings
from cogvideo_jax.models.cogvideo.sampling_config import SamplingConfig, read_sampling_config
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS
from cogvideo_jax.runtime import record
from cogvideo_jax.runtime.checkpoint import Steps
from cogvideo_jax.runtime.jsonl import read_lines
from cogvideo_jax.runtime.schemas import read_json
from cogvideo_jax.runtime.weights import read_description
from cogvideo_jax.training.config_files import load_config, read_config
from cogvideo_jax.training.metrics import Line
from cogvideo_jax.training.task import TaskType
from tests.damages import damaged

EXAMPLES = 60  # wrong values of each kind of file; fewer of each config, for many configs share a schema
OF_A_CONFIG = 20
DIFFERENT = 0.55  # share of them that must differ, or nothing is tested
FUZZ = int(os.environ.get("COGVIDEO_FUZZ", "20"))  # random damages of each kind of file
LONGEST = 500  # characters of a sentence
DEEP = 100_000


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
      file: its name, which errors must tell.
      good: values that are read without complaint.
      schema: that they pass.
      read: path -> reads it; raises UserError.
      beside: the JSON stands beside arrays, under this name; by default it is the file.
      rows: the file grows by rows.
      loose: keys that have another form beside that of the schema.
      harmless: damages of the file that leave nothing wrong.
      finite: whether not-a-number and infinity are wrong.
      is_json: False for values that come from elsewhere, whose text is never read.
      examples: how many wrong values are tried.
    """

    file: str
    good: Any
    schema: Any
    read: Callable[[Path], Any]
    beside: str = ""
    rows: bool = False
    loose: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    finite: bool = True
    is_json: bool = True
    examples: int = EXAMPLES

    def write(self, path: Path, text: bytes) -> None:
        """A file with this text; of several rows it is the second, and a kill has cut the first."""
        if self.beside:
            metadata = {self.beside: text.decode(errors="replace")}
            safetensors.numpy.save_file({"ids": np.zeros((3, 4), np.int32)}, path, metadata=metadata)
        else:
            path.write_bytes(b'{"cut": \n' + text + b"\n" if self.rows else text)

    def refused(self, path: Path) -> str:
        """The sentence with which a file is refused."""
        with pytest.raises(UserError) as caught:
            self.read(path)
        said = str(caught.value)
        assert self.file in said and said.isprintable() and len(said) < LONGEST, said
        return said


# The files ------------------------------------------------------------------------------------------


def part(name: str, schema: Any) -> Kind:
    """The description of one of the demo's weights."""
    good = read_description(DEMO_WEIGHTS / f"{name}.safetensors")[1]
    reads = functools.partial(descriptions.read_part, kind=name)
    return Kind(f"{name}.safetensors", good, schema, reads, beside="description")


def read_settings(path: Path) -> None:
    checkpoint = open_checkpoint(path, path.parent / "scratch", merge_ranks=merge_ranks)
    checked_settings(checkpoint.settings, checkpoint.source)


def read_captions(path: Path) -> FolderSource:
    (path.parent / "a.mp4").touch()
    return FolderSource(path.parent, size=16)


def tasks_of(family: str) -> Mapping[str, TaskType]:
    return registry.family(family).tasks()


PROGRAM = """
import json
from ml_collections import ConfigDict

def get_config():
    values = json.loads({!r})
    return ConfigDict(values) if isinstance(values, dict) else values
"""


def config(path: Path) -> Kind:
    """A training config: Python makes it, so only its values can be wrong."""
    good, task = load_config(path, []).to_dict(), read_config(path, [], tasks_of).task

    def read(made: Path) -> None:
        made.write_text(PROGRAM.format(made.read_text()))
        read_config(made, [], tasks_of)

    no_files = ("a folder", "a pipe", "no file")
    return Kind(
        path.name,
        json.loads(json.dumps(good)),
        task.schema,
        read,
        is_json=False,
        harmless=no_files,
        examples=OF_A_CONFIG,
    )


def run_config(path: Path) -> Kind:
    """The settings that a workdir keeps."""
    config, task = read_config(path, [], tasks_of)
    good = json.loads(json.dumps(dataclasses.asdict(config)))
    return Kind("config.json", good, task.schema, lambda path: read_json(path, task.schema))


CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
TOKENIZER = "0" * 16
NO_ROW = ("cut", "empty", "blank", "no file")
PLAN = {"fingerprint": TOKENIZER, "top_fps": 8.0, "clips_per_shard": 2, "source": {"size": "64"}, "coarse_size": 8}
SHARD = {
    "clips": 1,
    "frame_tokens": 4,
    "coarse_tokens": 1,
    "skipped": [["a", "broken"]],
    "shortest_seconds": 1.0,
    "sources": "a" * 16,
    "digest": "b" * 16,
}
META = PLAN | {
    "grid": 2,
    "frame_tokens": 4,
    "coarse_grid": 1,
    "clips": 3,
    "clips_in_shard": [2, 1],
    "digests": ["b" * 16, "c" * 16],
    "shortest_seconds": 1.0,
    "skipped": [["a", "broken"]],
}
OFFICIAL = {
    "num_layers": 2,
    "hidden_size": 8,
    "vocab_size": 40,
    "hidden_dropout": 0.1,
    "layout": [4, 8, 24],
    "window_size": -1,
    "cogvideo_stage": 1,
    "special_ids": {"<start_of_image>": 38},
}
KINDS = [
    Kind(
        "pipeline.json",
        json.loads((DEMO_WEIGHTS / "pipeline.json").read_text()) | {"family": "cogvideo"},
        SamplingConfig,
        read_sampling_config,
    ),
    part("base", descriptions.TransformerDescription),
    part("stage2", descriptions.TransformerDescription),
    part("superres", descriptions.SuperResolutionDescription),
    part("tokenizer", descriptions.TokenizerDescription),
    Kind(
        "a.keyframes",
        {"kind": "keyframes", "prompt": "a ball", "fps": 1.0, "tokenizer": TOKENIZER},
        key_frames_file.Description,
        functools.partial(key_frames_file.read_key_frames, tokenizer=TOKENIZER, codes=8),
        beside="description",
    ),
    Kind("plan.json", PLAN, Plan, lambda path: read_json(path, Plan)),
    Kind("shard-00000.json", SHARD, ShardNotes, lambda path: read_json(path, ShardNotes)),
    Kind("meta.json", META, Meta, lambda path: read_json(path, Meta)),
    Kind(
        "videos.jsonl",
        {"video": "a.mp4", "prompt": "a ball", "copy": 0, "files": ["a.mp4"], "seed": 3},
        record.Row,
        lambda path: record.Record(path, {}),
        rows=True,
        harmless=NO_ROW,
    ),
    Kind(
        "metrics.jsonl",
        {"step": 1, "loss": 3.0},
        Line,
        lambda path: read_lines(path, Line),
        rows=True,
        harmless=NO_ROW,
        finite=False,
    ),
    Kind("damaged.json", [1, 20], Steps, lambda path: read_json(path, Steps)),
    Kind(
        "captions.jsonl",
        {"file": "a.mp4", "text": ["a ball"]},
        Row,
        read_captions,
        loose=("text",),
        harmless=("another encoding",),  # UTF-16 is read
    ),
    Kind(
        "official.safetensors",
        OFFICIAL,
        Settings,
        read_settings,
        beside="model_config.json",
        loose=("layout",),
        harmless=("latin-1",),  # an odd key, and odd keys are not read
    ),
    *map(config, CONFIGS),
    run_config(CONFIGS[0]),
]


# Wrong values ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Place:
    """A value inside the good ones: the keys that lead to it, and its JSON schema."""

    keys: tuple[str | int, ...]
    schema: dict

    @property
    def key(self) -> str:
        """The last name on the way; empty at the top."""
        return next((key for key in reversed(self.keys) if isinstance(key, str)), "")


@functools.cache
def json_schema(schema: Any) -> dict:
    """What a file of a schema holds."""
    return TypeAdapter(schema).json_schema()


def places(kind: Kind) -> list[Place]:
    """All values that the schema says something about."""
    whole = json_schema(kind.schema)

    def walk(value: Any, schema: dict, keys: tuple) -> Iterator[Place]:
        schema = resolved(schema, whole)
        yield Place(keys, schema)
        if isinstance(value, dict):
            known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
            for key, item in value.items():
                yield from walk(item, known.get(key, others if isinstance(others, dict) else {}), (*keys, key))
        elif isinstance(value, list):
            for i, item in enumerate(value[:2]):
                of_items = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
                yield from walk(item, of_items[i], (*keys, i))

    return list(walk(kind.good, whole, ()))


def resolved(schema: dict, whole: dict) -> dict:
    """A JSON schema without references; one that may be null has that as a second type."""
    if "$ref" in schema:
        return resolved(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        options = [resolved(option, whole) for option in schema["anyOf"]]
        [one] = [option for option in options if option.get("type") != "null"]
        return one | {"null": len(options) > 1}
    return schema


HUGE = st.sampled_from([10**400, -(10**400)])


def wrong(place: Place, kind: Kind) -> st.SearchStrategy:
    """Values that the schema of a place refuses."""
    schema, allowed = place.schema, place.schema.get("type")
    if allowed is None:
        return st.nothing()
    types = {
        "boolean": st.booleans(),
        "integer": st.integers(-10, 10**6),
        "number": st.floats(-1e6, 1e6).filter(lambda x: x != int(x)),
        "string": st.text(max_size=30) | st.just("x" * 200_000),
        "array": st.lists(st.integers(), max_size=3),
        "object": st.dictionaries(st.sampled_from(["zz", "qq"]), st.integers(), max_size=2),
    }
    loose = {"string", "array"} if place.key in kind.loose else set()
    others = [made for name, made in types.items() if name not in {allowed, *loose}]
    if allowed == "number":
        others.remove(types["integer"])
    if not schema.get("null"):
        others.append(st.none())
    if allowed != "number" or kind.finite:
        others.append(st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    return st.one_of(*others, *out_of_range(schema), *([HUGE] * kind.finite))


def out_of_range(schema: dict) -> Iterator[st.SearchStrategy]:
    """Values of the right type beyond its limits."""
    numbers = st.integers if schema["type"] == "integer" else st.floats
    if schema["type"] in ("integer", "number"):
        if "minimum" in schema:
            yield numbers(max_value=schema["minimum"] - 1)
        if "exclusiveMinimum" in schema:
            yield numbers(max_value=schema["exclusiveMinimum"])
        if "maximum" in schema:
            yield numbers(min_value=schema["maximum"] + 1)
        if "exclusiveMaximum" in schema:
            yield numbers(min_value=schema["exclusiveMaximum"])
    named = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if named is not None:
        made = st.integers(-9, 99) if schema["type"] == "integer" else st.text(max_size=9)
        yield made.filter(lambda x: x not in named)
    if schema.get("minLength"):
        yield st.just("")
    if "maxLength" in schema:
        yield st.just("x" * (schema["maxLength"] + 1))
    if schema.get("minItems"):
        yield st.just([])


@st.composite
def damages(draw: st.DrawFn, kind: Kind) -> tuple[str, bytes]:
    """The key that is wrong, and the JSON text of all values."""
    place = draw(st.sampled_from(places(kind)))
    values = json.loads(json.dumps(kind.good))
    inside = place.schema.get("type") == "object"
    ways = ["wrong"] * 4 + ["deep"] * kind.is_json + ["missing", "unknown"] * 4 * inside
    how = draw(st.sampled_from(ways))
    if how in ("missing", "unknown"):
        return draw(other_keys(values, place, how))
    if how == "deep":
        assume("type" in place.schema)
        text = json.dumps(put(values, place.keys, "deep nesting"))
        return "", text.replace('"deep nesting"', "[" * DEEP + "]" * DEEP).encode()
    return place.key, json.dumps(put(values, place.keys, draw(wrong(place, kind)))).encode()


@st.composite
def other_keys(draw: st.DrawFn, values: Any, place: Place, how: str) -> tuple[str, bytes]:
    """An object without one of its keys, or with one more."""
    inner = values
    for key in place.keys:
        inner = inner[key]
    assume(isinstance(inner, dict))
    if how == "missing":
        named = [key for key in place.schema.get("required", []) if key in inner]
        assume(named)
        key = draw(st.sampled_from(named))
        del inner[key]
    else:
        assume(place.schema.get("additionalProperties") is False)
        key = draw(st.from_regex(r"[a-z_]{3,20}", fullmatch=True).filter(lambda name: name not in inner))
        inner[key] = draw(st.none() | st.integers() | st.text(max_size=9))
    return key, json.dumps(values).encode()


def put(values: Any, keys: tuple, value: Any) -> Any:
    """The values with another one in one place."""
    if not keys:
        return value
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return values


BYTES = {
    "empty": lambda data: b"",
    "blank": lambda data: b" \n\n",
    "cut": lambda data: data[: 2 * len(data) // 3],
    "another encoding": lambda data: data.decode("latin-1").encode("utf-16"),
    "latin-1": lambda data: data.replace(b'"', b'"\xe9', 1) if b'"' in data else b'["\xe9"]',
    "a zero byte": lambda data: data[:1] + b"\0" + data[1:],
    "deep nesting": lambda data: b"[" * DEEP,
    "deep objects": lambda data: b'{"a":' * DEEP,
    "a list": lambda data: b'["a", "b"]',
    "a number": lambda data: b"3",
    "a huge number": lambda data: b"9" * 10_000,
    "a text": lambda data: b'"a"',
    "nothing said": lambda data: b"null",
    "not a number": lambda data: b"NaN",
    "a page": lambda data: b"<!doctype html><html></html>",
    "bytes": lambda data: bytes(range(256)),
}
PLACES = {"a folder": os.mkdir, "a pipe": os.mkfifo, "no file": lambda path: None}


# The tests -------------------------------------------------------------------------------------------


by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.file)


@by_kind
def test_the_good_values_are_read(kind, tmp_path):
    kind.write(tmp_path / kind.file, json.dumps(kind.good).encode())
    kind.read(tmp_path / kind.file)


@by_kind
def test_wrong_values_are_refused_by_their_key(kind, tmp_path):
    seen = set()

    @settings(
        max_examples=kind.examples, derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck
    )
    @given(damages(kind))
    def check(damage):
        key, text = damage
        seen.add(text)
        kind.write(tmp_path / kind.file, text)
        said = kind.refused(tmp_path / kind.file)
        assert re.search(rf"(?<!\w){re.escape(key)}(?!\w)", said), f"{key}: {said}"

    check()
    assert len(seen) >= DIFFERENT * kind.examples


@by_kind
def test_damaged_files_are_refused_by_their_name(kind, tmp_path):
    path, text = tmp_path / kind.file, json.dumps(kind.good).encode()
    for name, damage in BYTES.items() if kind.is_json else ():
        if name not in kind.harmless:
            kind.write(path, damage(text))
            kind.refused(path)
        if kind.beside:
            kind.write(path, text)
            path.write_bytes(damage(path.read_bytes()))
            kind.refused(path)
    path.unlink(missing_ok=True)
    for name, make in PLACES.items():
        if name not in kind.harmless:
            make(path)
            kind.refused(path)
            (path.rmdir if path.is_dir() else path.unlink)() if path.exists() else None


@by_kind
def test_random_damage_is_one_sentence_or_leaves_values_that_pass(kind, tmp_path):
    path, text = tmp_path / kind.file, json.dumps(kind.good, ensure_ascii=False).encode()
    for number in range(FUZZ if kind.is_json else 0):
        kind.write(path, damaged(text, random.Random(f"{kind.file} {number}")))
        try:
            kind.read(path)
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < LONGEST, number


def test_there_are_300_wrong_values():
    assert DIFFERENT * sum(kind.examples for kind in KINDS) >= 300
