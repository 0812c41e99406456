"""Everything that comes from outside passes a schema here before anything else reads it.

A schema is a frozen dataclass with `__pydantic_config__ = STRICT`, or a `Schema`; ranges stand in the types. A wrong
value raises UserError: one sentence that names the file, the key, what came and what is allowed.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import SMALL_FILE, read_bytes

T = TypeVar("T")
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
SHOWN = 60  # characters of a wrong value that an error repeats

Positive = Annotated[int, Field(strict=True, gt=0, le=2**40)]
NotNegative = Annotated[int, Field(strict=True, ge=0, le=2**40)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**64)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, le=1e12)]
NotNegativeFloat = Annotated[float, Field(strict=True, ge=0, le=1e12)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Dropout = Annotated[float, Field(strict=True, ge=0, lt=1)]
Size = Annotated[int, Field(strict=True, gt=0, le=10**7)]  # of an axis of an array
Index = Annotated[int, Field(strict=True, ge=0, lt=10**7)]  # along such an axis
Few = Annotated[int, Field(strict=True, gt=0, le=1000)]  # of what a file could otherwise make us enumerate
Text = Annotated[str, Field(strict=True, min_length=1, max_length=100_000)]
FrameRate = Annotated[float, Field(strict=True, gt=0, le=1000)]  # frames a second

# What a wrong type is told, in place of pydantic's words.
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_unicode": "Unicode text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "dataclass_type": "an object",
}


def _is_digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise ValueError("it should be 16 hexadecimal digits")
    return text


def _is_file_name(text: str) -> str:
    if not 0 < len(text) <= 255 or text in (".", "..") or re.search(r"[/\\\0]", text):
        raise ValueError("it should be the name of a file, without folders")
    return text


Digest = Annotated[str, Field(strict=True), AfterValidator(_is_digest)]  # of a tokenizer, or of a list of names
FileName = Annotated[str, Field(strict=True), AfterValidator(_is_file_name)]


def dataclass_schema(config: ConfigDict = STRICT) -> Callable[[type[T]], type[T]]:
    """Makes a class a frozen dataclass that files are checked against."""

    def decorate(cls: type[T]) -> type[T]:
        cls.__pydantic_config__ = config  # type: ignore[attr-defined]
        return dataclasses.dataclass(frozen=True)(cls)

    return decorate


class Schema(BaseModel):
    """A frozen object whose fields are checked when it is made."""

    model_config = STRICT | ConfigDict(frozen=True)


def read_json(path: str | Path, schema: type[T], *, limit: int = SMALL_FILE) -> T:
    """The object in a JSON file.

    Raises:
      UserError: the file cannot be read, is too large, or does not fit the schema.
    """
    return parse_json(read_bytes(path, limit=limit), schema, where=str(path))


def parse_json(text: bytes | str, schema: type[T], *, where: str) -> T:
    """The object that a JSON text describes; `where` names its origin in errors. Raises UserError."""
    try:
        return _adapter(schema).validate_json(text)  # type: ignore[arg-type]
    except ValidationError as error:
        raise UserError(sentence(error, where)) from error


@functools.cache
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def check(values: Any, schema: type[T], *, where: str) -> T:
    """The object that plain Python values describe, lists and tuples alike. Raises UserError."""
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where} holds something other than numbers, texts and lists of them: {error}") from error
    return parse_json(text, schema, where=where)


def make(schema: type[T], *, where: str, **fields: Any) -> T:
    """An object of a Schema; `where` names it in errors. Raises UserError."""
    try:
        return schema(**fields)
    except ValidationError as error:
        raise UserError(sentence(error, where)) from error


def sentence(error: ValidationError, where: str) -> str:
    """The first fault of a validation in plain words, and how many more there are."""
    faults = error.errors(include_url=False)
    first = faults[0]
    key = shown_place(first["loc"])
    if first["type"] == "json_invalid":
        said = f"{where} is not valid JSON: {first['ctx']['error']}"
    elif first["type"] == "missing":
        said = f"{where} lacks the key {key}"
    elif first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        said = f"{where} has the unknown key {key}"
    elif not key:
        said = f"{where}: {_allowed(first)}"
    elif first["type"] == "value_error" and not isinstance(first["input"], str | int | float | list):
        said = f"{where}: {key}: {_allowed(first)}"  # the rule of a whole object names what came itself
    else:
        said = f"{where}: {key} is {shown(first['input'])}; {_allowed(first)}"
    return said + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _allowed(fault: ErrorDetails) -> str:
    if fault["type"] in EXPECTED:
        return f"it should be {EXPECTED[fault['type']]}"
    words = fault["msg"].removeprefix("Value error, ")
    words = re.sub(r" after validation, not (\d+|more)$", "", words)
    return re.sub(r"^(Input|Tuple|List|String|Dictionary|Value) should", "it should", words)


def shown(value: Any) -> str:
    """A value as an error repeats it: one line, not too long."""
    text = " ".join(ascii(value).split()) if not isinstance(value, str) else repr(value[: SHOWN + 1])
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def shown_place(keys: Sequence[str | int]) -> str:
    """Where a value stands, as `layout.frame_times[2]`; a key that is no name stands in quotes."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            name = key if key.isidentifier() and len(key) <= SHOWN else shown(key)
            text += f".{name}" if text else name
    return text
