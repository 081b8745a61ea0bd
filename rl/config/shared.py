"""Compositions that many command lines share: the jobs of a sweep differ in values of single keys."""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from rl.config.overrides import GROUPS, Overrides

_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
# what says which overrides there are: a value made of it changes with every job
_OF_OVERRIDES = re.compile(r"override_dirname|hydra\.(overrides|job)")
_SPECIAL = re.compile(r"[$?\\]")  # OmegaConf may read such a text as more than itself


class Base:
    """A composed configuration, in which others change the values of single keys for a moment."""

    def __init__(self, whole: DictConfig) -> None:
        """`whole`: as Hydra composes it, its own section included."""
        raw = OmegaConf.to_container(whole, resolve=False)
        assert isinstance(raw, dict)
        self._raw: dict[Any, Any] = raw
        self._whole, self._own = whole, copy.deepcopy(whole)
        drop_hydra(self._own)
        hydra = self._raw["hydra"]
        texts = {**self._raw, "hydra": [hydra["run"]["dir"], hydra["sweep"]["dir"]]}
        self._shared = not _OF_OVERRIDES.search(str(texts))

    @contextlib.contextmanager
    def changed(self, overrides: Overrides) -> Iterator[tuple[DictConfig, DictConfig] | None]:
        """The configuration with and without Hydra's section under these overrides; None if it has to be
        composed anew, for a key that is not there or has others below it.
        """
        before = {key: self._value(key) for key in overrides.keys}
        if not self._shared or any(isinstance(value, dict) for value in before.values()):
            yield None
            return
        try:
            for override in overrides:
                self._set(override.key_or_group, override.value(), merge=True)
            yield self._whole, self._own
        finally:
            for key, value in before.items():
                self._set(key, value, merge=False)

    def _value(self, key: str) -> Any:
        """What a key has, not resolved; {} if there is none."""
        value: Any = self._raw
        for name in key.split("."):
            value = value.get(name, {}) if isinstance(value, dict) else {}
        return value

    def _set(self, key: str, value: Any, *, merge: bool) -> None:
        OmegaConf.update(self._whole, key, value, merge=merge)
        if key not in _FOLDERS:
            OmegaConf.update(self._own, key, value, merge=merge)


def drop_hydra(composed: DictConfig) -> None:
    """Remove Hydra's own section, after which keys can be set."""
    OmegaConf.set_readonly(composed, False)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]


def split(overrides: Overrides, roots: Sequence[str]) -> tuple[Overrides, Overrides]:
    """The overrides that a composition needs, and those that only set a single key to a plain value.

    `roots`: the folders of configuration files, which say what is a group.
    """
    single = overrides.where(lambda override: _is_single(override, roots))
    others = overrides.where(lambda override: not _is_single(override, roots))
    values = others.where(lambda o: isinstance(o.value(), dict) or not _is_group(o.key_or_group, roots))
    pairs = itertools.product(single.keys, values.keys)
    if any(f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.") for one, other in pairs):
        return overrides, Overrides()  # their order matters
    return others, single


def _is_single(override: Override, roots: Sequence[str]) -> bool:
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or override.is_sweep_override() or override.package is not None:
        return False
    if key.startswith("hydra") and key not in _FOLDERS:
        return False
    return (
        not _is_group(key, roots) and re.fullmatch(r"[\w.]+", key) is not None and _is_plain(override.value())
    )


def _is_group(key: str, roots: Sequence[str]) -> bool:
    return key in GROUPS or any((Path(root) / key).is_dir() for root in roots)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not _SPECIAL.search(value)
    return value is None or isinstance(value, bool | int | float)
