"""What each group may become: the target's menu, narrowed by the user's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fewbits.errors import UsageError
from fewbits.formats.scheme import FP32, Scheme
from fewbits.grouping import Group


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a group cannot have a scheme."""

    scheme: Scheme
    reason: str


@dataclass(frozen=True, slots=True)
class Menu:
    """The schemes that a target runs for one group, and those that it refuses."""

    schemes: tuple[Scheme, ...]
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Groups whose name matches `pattern` (shell wildcards) get `scheme` and nothing else.

    The text form ``conv_1*=fp32`` round-trips.
    """

    pattern: str
    scheme: Scheme

    def __str__(self) -> str:
        return f"{self.pattern}={self.scheme}"

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `text`, the inverse of ``str``. Raises UsageError."""
        pattern, equals, scheme = text.partition("=")
        if not equals or not pattern:
            raise UsageError(f"{text!r} is not a rule; write PATTERN=SCHEME, for example 'conv_1*=fp32'")
        return cls(pattern, Scheme.parse(scheme))


@dataclass(frozen=True, slots=True)
class Space:
    """Group name → the schemes it may have (fp32 is always one), and why it may not have others."""

    schemes: Mapping[str, tuple[Scheme, ...]]
    refusals: Mapping[str, tuple[Refusal, ...]]
    unused_rules: tuple[str, ...] = ()

    @property
    def low(self) -> Mapping[str, Scheme]:
        """The first scheme other than fp32 of each group that has one."""
        return {
            name: next(scheme for scheme in schemes if not scheme.is_float)
            for name, schemes in self.schemes.items()
            if any(not scheme.is_float for scheme in schemes)
        }


def candidates(groups: Sequence[Group], rules: Sequence[Rule], menu: Callable[[Group], Menu]) -> Space:
    """The space of `groups`: the first rule that matches a group decides, the rest take the whole menu.

    Rules that match no group are reported in `Space.unused_rules`.
    """
    schemes: dict[str, tuple[Scheme, ...]] = {}
    refusals: dict[str, tuple[Refusal, ...]] = {}
    used: set[Rule] = set()
    for group in groups:
        offered = menu(group)
        rule = next((rule for rule in rules if fnmatchcase(group.name, rule.pattern)), None)
        refused = list(offered.refusals)
        kept = offered.schemes
        if rule is not None:
            used.add(rule)
            kept = tuple(scheme for scheme in offered.schemes if scheme == rule.scheme)
            refused += [
                Refusal(scheme, f"the rule {rule} says otherwise") for scheme in offered.schemes if scheme not in kept
            ]
        schemes[group.name] = (FP32, *(scheme for scheme in kept if not scheme.is_float))
        refusals[group.name] = tuple(refused)
    return Space(schemes, refusals, tuple(str(rule) for rule in rules if rule not in used))
