"""Recipes by name."""

from __future__ import annotations

from difflib import get_close_matches

from fewbits.errors import RecipeError
from fewbits.training.catalogue import PRESETS
from fewbits.training.table import Recipe


def names() -> tuple[str, ...]:
    """The recipes that have a name."""
    return tuple(PRESETS)


def recipe(text: str | Recipe) -> Recipe:
    """The recipe of that name, or the one that `text` spells out (``recipe: mine; weight forward: ...``).

    Raises RecipeError, with the nearest names.
    """
    if isinstance(text, Recipe):
        return text
    if text in PRESETS:
        return Recipe.parse(f"recipe: {text}\n{PRESETS[text]}")
    if ":" in text:
        return Recipe.parse(text)
    near = get_close_matches(text, PRESETS, 3, 0.4) or [name for name in PRESETS if text and text in name][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(PRESETS)}"
    raise RecipeError(
        f"{text!r} is not a recipe; {hint} A recipe of your own is text: 'recipe: mine; weight forward: fp8_e4m3'"
    )
