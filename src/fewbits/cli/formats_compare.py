"""``fewbits formats compare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fewbits.cli.arguments import must_not_exist
from fewbits.cli.output import columns, show, tell
from fewbits.console import stderr_progress
from fewbits.errors import DataError, UsageError

if TYPE_CHECKING:
    from fewbits.comparison import FormatComparison
    from fewbits.weights import Weights

_STDOUT = Path("-")
_NAMES_SHOWN = 20

Draw = Callable[["FormatComparison", bool], bytes]


def compare(
    file: Annotated[
        Path,
        typer.Argument(help="Weights: an .onnx, .safetensors, .npz or .npy file.", show_default=False),
    ],
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Candidate formats, for example fp8_e4m3/tensor,int8r/channel,mxfp4; without it, sixteen of 16 to "
            "2 bits. What else there is: fewbits formats.",
            show_default=False,
        ),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only tensors of this name; may be given again.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Also draw a picture into this .svg or .png file. Needs matplotlib.", show_default=False),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Also write everything to this file; - writes it to standard output in place of the table.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files of --output and --json.")] = False,
) -> None:
    """Round every float tensor of FILE to candidate formats, and show what is left: SQNR, clipping, underflow."""
    from fewbits.comparison import CANDIDATES
    from fewbits.comparison import compare as compare_formats
    from fewbits.report.comparison import Paper, render
    from fewbits.report.comparison_json import to_json
    from fewbits.store import write_file
    from fewbits.weights import open_weights

    draw = None if output is None else _drawing(output, force=force)
    if json is not None and json != _STDOUT:
        _must_be_writable(json, force=force)
    if output is not None and json is not None and output.resolve() == json.resolve():
        raise UsageError(f"--output and --json both name {output}; give them different files")
    candidates = CANDIDATES if formats is None else split(formats)
    weights = open_weights(file)
    names = chosen(weights, tensor or (), str(file))
    with stderr_progress() as progress:
        found = compare_formats(weights, candidates, names, progress)
    if draw is not None and output is not None:
        write_file(output, draw(found, bool(tensor)))
        tell(f"wrote {output}")
    if json == _STDOUT:
        show(to_json(found))
        return
    if json is not None:
        write_file(json, to_json(found).encode())
        tell(f"wrote {json}")
    screen = Console()
    show(render(found, Paper(columns(), screen.is_terminal and not screen.no_color)))


def split(text: str) -> tuple[str, ...]:
    """Formats between commas; those within brackets belong to a codebook. Raises UsageError on none."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    named = tuple(dict.fromkeys(one.strip() for one in found if one.strip()))
    if not named:
        raise UsageError("--formats names no format; give some with commas, for example int8r/channel,mxfp4")
    return named


def chosen(weights: Weights, patterns: Sequence[str], where: str) -> tuple[str, ...]:
    """The tensors of `weights` whose names match one of `patterns`, or all. Raises DataError if nothing is left."""
    from fewbits.comparison import unusable

    floats = [tensor.name for tensor in weights.tensors if not unusable(tensor)]
    if not floats:
        kinds = sorted({tensor.dtype for tensor in weights.tensors})
        held = f"its {len(weights.tensors)} tensors are {', '.join(kinds)} or empty" if kinds else "it has none at all"
        raise DataError(f"{where} holds no tensor of floats: {held}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in floats):
            more = f" and {len(floats) - _NAMES_SHOWN} more" if len(floats) > _NAMES_SHOWN else ""
            raise DataError(
                f"--tensor {pattern!r} matches none of the {len(floats)} float tensors in {where}: "
                f"{', '.join(floats[:_NAMES_SHOWN])}{more}"
            )
    if not patterns:
        return ()
    return tuple(tensor.name for tensor in weights.tensors if any(fnmatchcase(tensor.name, one) for one in patterns))


def _drawing(output: Path, *, force: bool) -> Draw:
    """What draws into `output`. Raises UsageError, before anything is computed, if that cannot be done."""
    _must_be_writable(output, force=force)
    if output.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--output {output}: pictures are .svg or .png files")
    try:
        from fewbits.report.comparison_picture import draw
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--output needs {error.name}, which draws the picture: pip install fewbits[report]"
        ) from error
    return lambda found, by_name: draw(found, output.suffix.lower(), chosen=by_name)


def _must_be_writable(path: Path, *, force: bool) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}; make it first, or choose another place for {path.name}")
    must_not_exist(path, force=force)
