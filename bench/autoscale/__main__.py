"""`python -m bench.autoscale live|model|plots`: see bench/autoscale/__init__.py."""

from __future__ import annotations

import argparse
import asyncio

from bench.autoscale import report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.autoscale")
    parser.add_argument("what", choices=("live", "model", "plots"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    match options.what:
        case "live":
            print(asyncio.run(report.live(options.seed)))
        case "model":
            print(report.model(options.seed))
        case "plots":
            report.plots()


if __name__ == "__main__":
    main()
