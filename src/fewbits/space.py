"""What each group may become: the target's menu, narrowed by the user's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fewbits.errors import UsageError
from fewbits.formats.scaled import ScaledFormat
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
        """Whether `group` may have `scheme` under this rule. Channels and signs are those that a weight asks for;
        where `group` has none, static codes of the same widths are the same scheme."""
        if scheme.is_fp32 or scheme == self.scheme:
            return True
        both_static = scheme.is_static and self.scheme.is_static
        return both_static and not group.weight and _widths(scheme) == _widths(self.scheme)


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
    def coded(self) -> Mapping[str, Scheme]:
        """The plainest scheme with codes of calibrated ranges of each group that has one."""
        return {name: static[0] for name, static in self._static.items()}

    @property
    def symmetric(self) -> Mapping[str, Scheme]:
        """As `coded`, but without zero points where the target offers that, too."""
        return {
            name: [scheme for scheme in static if not scheme.smoothed or scheme == static[0]][-1]
            for name, static in self._static.items()
        }

    @property
    def smoothed(self) -> Mapping[str, Scheme]:
        """As `coded`, but smoothed where the target offers that."""
        return {
            name: next((scheme for scheme in static if scheme.smoothed), static[0])
            for name, static in self._static.items()
        }

    @property
    def _static(self) -> Mapping[str, Sequence[Scheme]]:
        static = {name: [one for one in schemes if one.is_static] for name, schemes in self.schemes.items()}
        return {name: schemes for name, schemes in static.items() if schemes}

    def without(self, refused: Mapping[str, Sequence[Refusal]]) -> Space:
        """The space after a probe: `refused` names, by group, schemes that the target turned out not to run."""
        schemes = {
            name: tuple(one for one in offered if one not in {refusal.scheme for refusal in refused.get(name, ())})
            for name, offered in self.schemes.items()
        }
        refusals = {name: (*self.refusals.get(name, ()), *refused.get(name, ())) for name in self.schemes}
        return Space(schemes, refusals, self.unused_rules)

    @property
    def free(self) -> frozenset[str]:
        """The groups that may leave fp32."""
        return frozenset(name for name, schemes in self.schemes.items() if len(schemes) > 1)


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
        low = tuple(scheme for scheme in offered.schemes if not scheme.is_fp32)
        refused = list(offered.refusals)
        rule = next((rule for rule in rules if rule.matches(group)), None)
        if rule is not None:
            used.add(rule)
            kept = tuple(scheme for scheme in low if rule.allows(group, scheme))
            refused += [Refusal(scheme, f"the rule {rule} says otherwise") for scheme in low if scheme not in kept]
            known = any(rule.allows(group, refusal.scheme) for refusal in offered.refusals)
            if not kept and not known and not rule.scheme.is_fp32:
                choices = ", ".join(map(str, low)) or "nothing but fp32"
                refused.append(Refusal(rule.scheme, f"the rule {rule} asks for it; the target offers {choices}"))
            low = kept
        schemes[group.name] = (FP32, *low)
        refusals[group.name] = tuple(refused)
    return Space(schemes, refusals, tuple(str(rule) for rule in rules if rule not in used))


def _widths(scheme: Scheme) -> tuple[int, ...]:
    """Bits of the codes of both operands."""
    operands = (scheme.weight, scheme.activation)
    return tuple(operand.element.bits for operand in operands if isinstance(operand, ScaledFormat))
