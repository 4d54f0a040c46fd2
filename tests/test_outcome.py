"""Outcomes and errors say what happened and what to do, and the shell sees the documented codes."""

import inspect

import pytest

from fewbits import errors
from fewbits.outcome import Outcome


def test_exit_codes_are_the_documented_ones() -> None:
    assert {str(outcome): outcome.exit_code for outcome in Outcome} == {
        "met": 0,
        "budget_unreachable": 3,
        "kept_original": 4,
    }


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_advice(outcome: Outcome) -> None:
    assert outcome.advice.endswith(".")
    assert outcome.predicted_advice.endswith(".")


@pytest.mark.parametrize("outcome", Outcome)
def test_a_prediction_has_no_noise(outcome: Outcome) -> None:
    assert "noise" not in outcome.predicted_advice
    assert "Serve it" not in outcome.predicted_advice


CLASSES = [value for value in vars(errors).values() if inspect.isclass(value)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_has_its_line_in_the_tree(error: type[Exception]) -> None:
    assert errors.__doc__ is not None
    lines = errors.__doc__.splitlines()
    (drawn,) = (line for line in lines if line.strip("│├└─ ").split(" ")[0] == error.__name__)
    # Four columns of drawing per level below the root, behind the indent of the block.
    depth = len(error.__mro__) - len(errors.FewbitsError.__mro__)
    assert drawn.index(error.__name__) == 4 + 4 * depth
    assert issubclass(error, errors.FewbitsError)
