"""How much faster a comparison is than its requests one after another: `python -m tests.compare_bar`, two minutes.

Three schedulers by four guidance scales on the embedded model, at its defaults; both ways by turns, and the median of
the ratios. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sd_demo.compare import plan_comparison
from sd_demo.comparing import run_comparison
from sd_demo.engine import Engine
from sd_demo.outputs import Outputs
from sd_demo.settings import Settings

ROWS, COLUMNS = "scheduler: dpmpp_2m, euler, ddim", "guidance_scale: 2, 4, 6, 8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    engine = Engine(Settings(), outputs=Outputs(Path(tempfile.mkdtemp())))
    engine.start()
    plan = plan_comparison("text_to_image", {"prompt": "a red house by the sea", "seed": 1}, ROWS, COLUMNS)
    engine.submit(plan.requests[0]).result()
    together, alone = [], []
    for _ in range(asked.repeats):
        start = time.perf_counter()
        for _news in run_comparison(engine, plan):
            pass
        middle = time.perf_counter()
        for request in plan.requests:
            engine.submit(request).result()
        together.append(middle - start)
        alone.append(time.perf_counter() - middle)
    engine.close()
    ratios = [b / a for a, b in zip(together, alone, strict=True)]
    figures = {"images": len(plan.requests), "together_s": together, "one_by_one_s": alone, "ratios": ratios}
    rounded = {k: [round(x, 2) for x in v] if isinstance(v, list) else v for k, v in figures.items()}
    sys.stdout.write(json.dumps({**rounded, "ratio": round(statistics.median(ratios), 2)}) + "\n")


if __name__ == "__main__":
    main()
