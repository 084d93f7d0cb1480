"""`random-model`: a model with a published architecture and random weights, to measure and to test with."""

from __future__ import annotations

from pathlib import Path

from sd_demo.architectures import ARCHITECTURES
from sd_demo.flags import Parser


def run(arguments: list[str]) -> int:
    """Write the folder and print its path."""
    parser = Parser(prog="python -m sd_demo random-model", description=__doc__)
    names = ", ".join(ARCHITECTURES)
    parser.add_argument("--like", required=True, choices=ARCHITECTURES, metavar="NAME", help=f"One of {names}.")
    scales = "full (float16, as published) or tiny (float32, seconds on any machine). [full]"
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", metavar="SCALE", help=scales)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="The same seed gives the same weights. [0]")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="An empty or new folder.")
    options = parser.parse_args(arguments)
    from sd_demo.random_model import save

    print(save(options.like, options.output, options.scale, options.seed))
    return 0
