"""What each group may become: the target's menu, narrowed by the user's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fewbits.errors import UsageError
from fewbits.formats.granularity import Tensor
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
    """Groups whose name is `pattern`, or matches it as shell wildcards, leave fp32 for `scheme` only.

    The text form ``conv_1*=fp32`` round-trips.
    """

    pattern: str
    scheme: Scheme

    def __str__(self) -> str:
        return f"{self.pattern}={self.scheme}"

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `text`, the inverse of ``str``. Raises UsageError."""
        # A name may hold an equals sign, a scheme never does.
        pattern, equals, scheme = text.rpartition("=")
        if not equals or not pattern:
            raise UsageError(f"{text!r} is not a rule; write PATTERN=SCHEME, for example 'conv_1*=fp32'")
        return cls(pattern, Scheme.parse(scheme))

    def matches(self, group: Group) -> bool:
        """Whether the rule is about `group`."""
        return group.name == self.pattern or fnmatchcase(group.name, self.pattern)

    def allows(self, group: Group, scheme: Scheme) -> bool:
        """Whether `group` may have `scheme` under this rule. The channels of a second operand are those
        of a weight; where `group` has none, its granularity does not count."""
        if scheme.is_float or scheme == self.scheme:
            return True
        return not group.weight and _per_tensor(scheme) == _per_tensor(self.scheme)


@dataclass(frozen=True, slots=True)
class Space:
    """Group name → the schemes it may have (fp32 is always one), and why it may not have others."""

    schemes: Mapping[str, tuple[Scheme, ...]]
    refusals: Mapping[str, tuple[Refusal, ...]]
    unused_rules: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for every rule that decides nothing."""
        return tuple(
            f"The rule {rule} decides nothing: it matches no group, or an earlier rule comes first."
            for rule in self.unused_rules
        )

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

    Rules that decide for no group are reported in `Space.unused_rules`, schemes that a rule asks for
    and `menu` does not have in `Space.refusals`.
    """
    schemes: dict[str, tuple[Scheme, ...]] = {}
    refusals: dict[str, tuple[Refusal, ...]] = {}
    used: set[Rule] = set()
    for group in groups:
        offered = menu(group)
        low = tuple(scheme for scheme in offered.schemes if not scheme.is_float)
        refused = list(offered.refusals)
        rule = next((rule for rule in rules if rule.matches(group)), None)
        if rule is not None:
            used.add(rule)
            kept = tuple(scheme for scheme in low if rule.allows(group, scheme))
            refused += [Refusal(scheme, f"the rule {rule} says otherwise") for scheme in low if scheme not in kept]
            known = any(rule.allows(group, refusal.scheme) for refusal in offered.refusals)
            if not kept and not known and not rule.scheme.is_float:
                choices = ", ".join(map(str, low)) or "nothing but fp32"
                refused.append(Refusal(rule.scheme, f"the rule {rule} asks for it; the target offers {choices}"))
            low = kept
        schemes[group.name] = (FP32, *low)
        refusals[group.name] = tuple(refused)
    return Space(schemes, refusals, tuple(str(rule) for rule in rules if rule not in used))


def _per_tensor(scheme: Scheme) -> Scheme:
    """`scheme` with one scale for its whole second operand."""
    return scheme if scheme.weight is None else replace(scheme, weight=replace(scheme.weight, granularity=Tensor()))
