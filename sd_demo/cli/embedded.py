"""`embedded vocabulary`, `sample-world`, `train`, `evaluate`, `sweep`: the picture-book model and its world."""

from __future__ import annotations

from pathlib import Path

from sd_demo.cli import evaluate
from sd_demo.flags import Parser

PROG = "python -m sd_demo embedded"


def run(arguments: list[str]) -> int:
    """Run one of COMMANDS."""
    parser = Parser(prog=PROG, description=__doc__)
    parser.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND")
    return COMMANDS[parser.parse_args(arguments[:1]).command](arguments[1:])


def _vocabulary(arguments: list[str]) -> int:
    from sd_demo.embedded.commands import vocabulary_command

    parser = Parser(prog=f"{PROG} vocabulary", description="Every word that the picture-book world knows.")
    parser.add_argument("--json", action="store_true", help="Print it as JSON.")
    print(vocabulary_command(parser.parse_args(arguments).json))
    return 0


def _sample_world(arguments: list[str]) -> int:
    from sd_demo.embedded.commands import sample_world

    parser = Parser(prog=f"{PROG} sample-world", description="Random pictures of the world with their captions.")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="How many. [16]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="The same seed draws the same pictures. [0]")
    parser.add_argument("--size", type=int, default=256, metavar="N", help="Width and height in pixels. [256]")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="Folder for PNGs and captions.jsonl.")
    parser.add_argument("--held-out", action="store_true", help="Only pairs of object and colour kept out of training.")
    print(sample_world(**vars(parser.parse_args(arguments))))
    return 0


def _train(arguments: list[str]) -> int:
    from sd_demo.embedded import train

    train.main(arguments)
    return 0


COMMANDS = {
    "vocabulary": _vocabulary,
    "sample-world": _sample_world,
    "train": _train,
    "evaluate": evaluate.evaluate,
    "sweep": evaluate.sweep,
}
