"""Where the file of costs lies on each system."""

from pathlib import Path

import pytest

from fewbits.costs.place import default_path

HOME = Path("/home/ada")


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({}, "linux", "/home/ada/.cache/fewbits/costs.sqlite"),
        ({"XDG_CACHE_HOME": "/var/c"}, "linux", "/var/c/fewbits/costs.sqlite"),
        # "All paths set in these environment variables must be absolute" (XDG base directory specification).
        ({"XDG_CACHE_HOME": "c"}, "linux", "/home/ada/.cache/fewbits/costs.sqlite"),
        ({"XDG_CACHE_HOME": ""}, "linux", "/home/ada/.cache/fewbits/costs.sqlite"),
        ({"FEWBITS_CACHE": "/scratch", "XDG_CACHE_HOME": "/var/c"}, "linux", "/scratch/costs.sqlite"),
        ({"FEWBITS_CACHE": "here"}, "darwin", "here/costs.sqlite"),
        ({}, "darwin", "/home/ada/Library/Caches/fewbits/costs.sqlite"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/fewbits/Cache/costs.sqlite"),
        ({}, "win32", "/home/ada/AppData/Local/fewbits/Cache/costs.sqlite"),
    ],
)
def test_place(environment: dict[str, str], platform: str, expected: str) -> None:
    assert default_path(environment, HOME, platform) == Path(expected)
