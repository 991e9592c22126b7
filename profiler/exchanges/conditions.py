# SPDX-License-Identifier: Apache-2.0
"""The conditions that filter options stand for, and the part that the kernel can decide.

Every start loads this module. The parser (``query.py``) is loaded only for ``--where`` and the
like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.exchanges import values
from profiler.exchanges.values import Address

if TYPE_CHECKING:
    from profiler.exchanges.query import Condition


@dataclass(frozen=True)
class Filters:
    """The filters that the kernel can apply: any value of each may match; empty: all match."""

    pid: tuple[int, ...] = ()
    comm: tuple[str, ...] = ()
    user: tuple[int, ...] = ()
    cgroup: tuple[str, ...] = ()
    port: tuple[int, ...] = ()
    address: tuple[Address, ...] = ()

    def given(self) -> tuple[str, ...]:
        """The names of the filters that are set."""
        return tuple(name for name, value in vars(self).items() if value)


class Named(NamedTuple):
    """A condition, and the option that set it: ``where``, ``status`` ..."""

    option: str
    condition: Condition


@dataclass(frozen=True)
class Conditions:
    """Conditions that must all hold."""

    named: tuple[Named, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.named)

    def and_(self, option: str, condition: Condition) -> Conditions:
        """Return these and another one; an ``and`` is split into its parts."""
        from profiler.exchanges.query import Every

        parts = condition.conditions if isinstance(condition, Every) else (condition,)
        return replace(self, named=(*self.named, *(Named(option, one) for one in parts)))

    @property
    def filters(self) -> Filters:
        """The part that the kernel can decide."""
        found = {name: tuple(pushed) for name, (_, pushed) in self._pushed().items()}
        return Filters(**found)

    def without(self, applied: Iterable[str]) -> Conditions:
        """Return the conditions that remain when the kernel has applied some of the ``filters``."""
        pushed = self._pushed()
        gone = [pushed[name][0] for name in applied if name in pushed]
        return Conditions(tuple(one for one in self.named if not any(one is it for it in gone)))

    def _pushed(self) -> dict[str, tuple[Named, list[Any]]]:
        """By name of a kernel filter: the first condition that is only about it, and its values."""
        pushed: dict[str, tuple[Named, list[Any]]] = {}
        for named in self.named:
            found = _alternatives(named.condition)
            if found is not None and found[0] not in pushed:
                pushed[found[0]] = (named, found[1])
        return pushed


ALL = Conditions()
"""Everything matches."""


def _alternatives(condition: Condition) -> tuple[str, list[Any]] | None:
    """Return a kernel filter and its values, if the condition is no more than that."""
    from profiler.exchanges.query import Comparison, Some

    one_of: Sequence[Condition] = (condition,)
    if isinstance(condition, Some):
        one_of = condition.conditions
    found: dict[str, list[Any]] = {}
    for one in one_of:
        if not isinstance(one, Comparison) or one.sign != "=" or one.value is None:
            return None
        found.setdefault(one.field.name, []).append(one.value)
    if len(found) != 1:
        return None
    name, wanted = next(iter(found.items()))
    return (name, wanted) if name in Filters.__dataclass_fields__ else None


class Option(NamedTuple):
    """A filter option: how its value is read, and the comparison that it stands for."""

    read: Callable[[str], Any]
    field: str
    sign: str = "="
    other: str = ""
    """Another field that may match instead."""


OPTIONS = {
    "pid": Option(values.pid, "pid"),
    "comm": Option(values.comm, "comm"),
    "cmdline": Option(values.glob, "cmdline", "~"),
    "user": Option(values.user, "user"),
    "cgroup": Option(values.cgroup, "cgroup"),
    "container": Option(values.glob, "container", "~"),
    "pod": Option(values.glob, "pod", "~"),
    "namespace": Option(values.glob, "namespace", "~"),
    "port": Option(values.port, "port"),
    "address": Option(values.address, "address"),
    "direction": Option(str, "direction"),
    "role": Option(str, "role"),
    "service": Option(values.glob, "service", "~"),
    "method": Option(values.method, "method"),
    "host": Option(values.host, "host", "~"),
    "path": Option(values.glob, "path", "~"),
    "status": Option(values.status, "status", other="interim"),
    "header": Option(values.header, "header", "~"),
    "min_latency": Option(lambda text: values.duration(text) * 1000, "latency", ">="),
}


def conditions(where: Sequence[Condition] = (), **options: Sequence[Any] | None) -> Conditions:
    """Return the conditions that options stand for; any value of an option may match.

    The values are those that ``read`` of :data:`OPTIONS` returns.
    """
    found = ALL
    for name, option in OPTIONS.items():
        fields = filter(None, (option.field, option.other))
        wanted = options.get(name) or ()
        comparisons = [
            _comparison(field, option.sign, value) for field in fields for value in wanted
        ]
        if comparisons:
            found = found.and_(name, _any_of(comparisons))
    for condition in where:
        found = found.and_("where", condition)
    return found


def _any_of(comparisons: Sequence[Condition]) -> Condition:
    from profiler.exchanges.query import Some

    return comparisons[0] if len(comparisons) == 1 else Some(tuple(comparisons))


def _comparison(name: str, sign: str, value: Any) -> Condition:
    from profiler.exchanges.fields import field_named
    from profiler.exchanges.query import Comparison

    if name == "header":
        header, value = value
        name = f"header.{header}"
    field = field_named(name)
    assert field is not None, "the name is in FIELDS"
    return Comparison(field, sign, value)
