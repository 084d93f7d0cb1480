"""`python -m sd_demo COMMAND`: what the page does, for shells and scripts.

Results go to standard output, everything else to standard error. A command is imported when it is asked
for, so that help and bad input are answered without loading torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

from sd_demo import __version__
from sd_demo.errors import InvalidRequest, JobCancelled, PlaygroundError
from sd_demo.flags import Parser

COMMANDS: Final = {  # each is a module here with `run(arguments) -> exit code`
    "generate": "make pictures from a prompt, and from a picture or a mask",
    "upscale": "make a picture larger, refined in tiles",
    "show": "print the receipt inside a PNG",
    "verify": "make a picture again from its receipt and compare",
    "compare": "vary one or two parameters, and lay the pictures out as a table",
    "train-lora": "teach the model something new from a few pictures",
    "download": "fetch a model from the hub, or list the models",
    "bench": "how fast this is here, against plain diffusers",
    "soak": "load and abuse against a server of its own, with figures",
    "doctor": "what is here, what will be used, and why",
    "random-model": "write a model with random weights, to measure with",
    "serve": "open the page, as python app.py does",
    "hash-password": "a line for the file of users that may log in",
    "embedded": "the picture-book model: its words, its world, its training",
}
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parser().parse_args(words[:1]).command
        return int(importlib.import_module(f"sd_demo.cli.{command.replace('-', '_')}").run(words[1:]))
    except InvalidRequest as error:
        return _say(error, BAD_INPUT)
    except (KeyboardInterrupt, JobCancelled):
        return _say("Cancelled.", INTERRUPTED)
    except PlaygroundError as error:
        return _say(error, FAILED)


def _say(sentence: object, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def _parser() -> Parser:
    listed = "\n".join(f"  {name:<13} {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="python -m sd_demo",
        description="Stable Diffusion playground",
        epilog=f"commands:\n{listed}\n\npython -m sd_demo COMMAND --help tells the rest.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    return parser
