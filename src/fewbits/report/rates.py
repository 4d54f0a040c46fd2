"""What was timed as text: milliseconds of a call, or samples per second."""

from __future__ import annotations

from fewbits.measurement import Interval, Measure
from fewbits.report.words import milliseconds, significant


def unit(measure: Measure) -> str:
    """The unit of `rate`."""
    return "samples/s" if measure is Measure.THROUGHPUT else "ms"


def rate(seconds: float, measure: Measure) -> str:
    """`seconds` of what `measure` says, without the unit; ``-`` for samples per second where no time was taken."""
    if measure is Measure.LATENCY:
        return milliseconds(seconds)
    return significant(1 / seconds) if seconds > 0 else "-"


def rate_bounds(seconds: Interval, measure: Measure) -> str:
    """``[low, high]`` of the rate whose seconds have the interval `seconds`."""
    low, high = (seconds.high, seconds.low) if measure is Measure.THROUGHPUT else (seconds.low, seconds.high)
    return f"[{rate(low, measure)}, {rate(high, measure)}]"


def gain_word(measure: Measure) -> str:
    """What a sure gain is called behind its factor."""
    return "more" if measure is Measure.THROUGHPUT else "faster"
