"""Functions of the user's own: found by text, and called so that a failure says whose it is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from fewbits.errors import FewbitsError, UsageError


def load_callable(text: str, error: type[UsageError]) -> Callable[..., object]:
    """The function that `text` names: ``module:function`` or ``path/file.py:function``.

    The folder of a file is on the import path while the file is loaded, so it may import its neighbours.
    Raises `error` if there is no such module, file or function, or if loading it fails.
    """
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise error(f"{text!r} does not name a function; write module:function or path/file.py:function")
    module = _load_file(Path(place), error) if place.endswith(".py") else _load_module(place, error)
    members = vars(module)
    if name not in members:
        public = sorted(key for key, value in members.items() if callable(value) and not key.startswith("_"))
        raise error(f"{place} has no function {name!r}; it has {', '.join(public) or 'none'}")
    found = members[name]
    if not callable(found):
        raise error(f"{text}: {name!r} is a {type(found).__name__}, not a function")
    function: Callable[..., object] = found
    return function


@contextmanager
def running(what: str, error: type[UsageError]) -> Iterator[None]:
    """Around a call of the user's code: whatever it raises becomes `error`, with the cause chained."""
    try:
        yield
    except FewbitsError:
        raise
    # The user's code may raise anything; nothing is swallowed, it is given a name.
    except Exception as cause:
        raise error(f"{what} raised {type(cause).__name__}: {cause}") from cause


def _load_module(name: str, error: type[UsageError]) -> ModuleType:
    try:
        with running(f"importing {name}", error):
            return importlib.import_module(name)
    except error as problem:
        near = Path(f"{name.replace('.', '/')}.py")
        if isinstance(problem.__cause__, ModuleNotFoundError) and near.is_file():
            raise error(f"there is no installed module {name!r}; for the file, write {near}:…") from problem
        raise


def _load_file(path: Path, error: type[UsageError]) -> ModuleType:
    if not path.is_file():
        raise error(f"there is no file {path}")
    resolved = path.resolve()
    # A name of its own per file, so that the file cannot hide an installed module.
    name = f"_fewbits_{sha256(str(resolved).encode()).hexdigest()[:8]}_{resolved.stem}"
    spec = spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise error(f"{path} cannot be loaded as Python")
    module = module_from_spec(spec)
    # Dataclasses and pickle look their module up here.
    sys.modules[name] = module
    sys.path.insert(0, str(resolved.parent))
    try:
        with running(f"loading {path}", error):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(resolved.parent))
    return module
