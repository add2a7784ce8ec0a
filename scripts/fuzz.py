"""Run the fuzz in several processes for some minutes, each round with a seed of its own.

    python scripts/fuzz.py --workers 14 --minutes 3 --seed 1801 --out fuzz.json

A round draws ``--examples`` of each property of ``tests/test_fuzz.py``. Seeds and the output of every
failed round go to one file; a failed round can be repeated by its seed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROPERTIES = len(re.findall(r"@FUZZ\n", (ROOT / "tests/test_fuzz.py").read_text(encoding="utf-8")))


def one_round(seed: int, examples: int) -> dict[str, Any]:
    """Run every property with a seed, and return how it ended."""
    env = os.environ | {"TNA_FUZZ_EXAMPLES": str(examples), "OMP_NUM_THREADS": "1", "PYTHONPATH": _path()}
    options = ["-p", "no:cacheprovider", "-W", "ignore", f"--hypothesis-seed={seed}", "tests/test_fuzz.py"]
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    found = {"seed": seed, "passed": run.returncode == 0, "seconds": round(time.monotonic() - start)}
    return found if found["passed"] else found | {"output": (run.stdout + run.stderr)[-20_000:]}


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def main() -> None:
    """Run rounds until the time is over, and write what they found."""
    parser = argparse.ArgumentParser(description="Fuzz in several processes for some minutes.")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--minutes", type=float, default=60, help="no round starts after so long (default 60)")
    parser.add_argument("--examples", type=int, default=25, help="of each property in a round (default 25)")
    parser.add_argument("--seed", type=int, required=True, help="of the first round; the others count up from it")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache/fuzz.json", help="where the outcomes go")
    args = parser.parse_args()
    end, rounds = time.monotonic() + 60 * args.minutes, []
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def work(worker: int) -> None:
        seed = args.seed + worker
        while time.monotonic() < end:
            rounds.append(found := one_round(seed, args.examples))
            args.out.write_text(json.dumps(sorted(rounds, key=lambda each: each["seed"]), indent=1))
            print(f"seed {seed}: {'nothing' if found['passed'] else 'FAILED'}, {found['seconds']} s", flush=True)
            seed += args.workers

    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(work, range(args.workers)))
    failed = [each["seed"] for each in rounds if not each["passed"]]
    examples = len(rounds) * PROPERTIES * args.examples
    print(f"{len(rounds)} rounds, at most {examples} examples of {PROPERTIES} properties; failed: {failed or 'none'}")


if __name__ == "__main__":
    main()
