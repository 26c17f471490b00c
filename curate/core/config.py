"""Config: TOML in, frozen dataclasses, JSON out. Unknown keys and wrong types are refused, with the key's full name."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import ConfigError

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Make a frozen config dataclass from plain values, recursively.

    Args:
        cls: a dataclass; its own `__post_init__` checks ranges.
        values: field name -> plain value; nested dataclasses take mappings.
        where: name of the thing, used in messages ("sharpness", "train.toml").

    Raises:
        ConfigError: unknown key, missing key, or a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = _hints(cls)  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
    missing = [n for n, f in fields.items() if _required(f) and n not in values]
    if missing:
        raise ConfigError(f"{where}: missing key {missing[0]!r}")
    return cls(**{key: _convert(value, hints[key], f"{where}.{key}") for key, value in values.items()})


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)  # slow, and a ledger holds thousands of records of one class


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, _expect(value, Mapping, where, "a table"), where=where)
    if origin in (types.UnionType, typing.Union):
        return value if value is None else _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is tuple:
        items = _expect(value, (list, tuple), where, "a list")
        inner = args[:1] * len(items) if args[1:] == (Ellipsis,) else args
        if len(inner) != len(items):
            raise ConfigError(f"{where} must have {len(inner)} values, got {len(items)}")
        return tuple(
            _convert(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(items, inner, strict=True))
        )
    if origin is collections.abc.Mapping:
        return {
            key: _convert(item, args[1], f"{where}.{key}")
            for key, item in _expect(value, Mapping, where, "a table").items()
        }
    if hint is float:
        number = float(_expect(value, (int, float), where, "a number"))
        if not math.isfinite(number):
            raise ConfigError(f"{where} must be finite, got {number}")
        return number
    if hint is Path:
        return Path(_expect(value, (str, Path), where, "a path"))
    return _expect(value, hint, where, hint.__name__) if isinstance(hint, type) else value


def _expect(value: Any, kind: Any, where: str, wanted: str) -> Any:
    wrong_bool = isinstance(value, bool) and kind is not bool
    if wrong_bool or not isinstance(value, kind):
        raise ConfigError(f"{where} must be {wanted}, got {value!r}")
    return value


def percent(text: str, *, name: str) -> float:
    """Read a share such as `5%` (the sign is required: 5 and 0.05 are easily confused).

    Returns:
        0.0 .. 1.0

    Raises:
        ConfigError: not a percentage in 0%..100%.
    """
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not text.endswith("%") or not 0 <= value <= 1:
        raise ConfigError(f"{name} must be a percentage in 0%..100%, such as 5%, got {text!r}")
    return value


def to_plain(config: Any) -> Any:
    """Turn a config (nested dataclasses, tuples, paths) into plain JSON values; key order is the field order."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def config_hash(plain: Mapping[str, Any], *, leave_out: Collection[str] = ()) -> str:
    """Hash plain config values: sha256 of canonical JSON without the top-level keys `leave_out`."""
    kept = {key: value for key, value in plain.items() if key not in leave_out}
    return hashlib.sha256(canonical_json(kept)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encode to the one JSON form used for hashes: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
