"""Write the test vectors: what a decoder must make of which bytes.

python protocol/vectors/make_vectors.py          writes what has changed
python protocol/vectors/make_vectors.py --check  says what would change, and fails if anything would

Nothing here uses the implementation: bytes are put together by hand or by msgpack, and what they
mean is written beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import batches
import bodies
import forms
import streams

HERE = Path(__file__).parent


def outputs() -> dict[Path, str]:
    """Every file of vectors and what it must contain."""
    found: dict[Path, str] = {}
    for module in forms, bodies, batches, streams:
        vectors: list[dict[str, Any]] = module.vectors()
        names = [vector["name"] for vector in vectors]
        assert len(names) == len(set(names)), "two vectors have the same name"
        lines = ",\n".join(json.dumps(vector) for vector in vectors)
        found[HERE / f"{module.__name__}.json"] = f"[\n{lines}\n]\n"
    return found


def main() -> int:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    args = parser.parse_args()
    stale = {p: t for p, t in outputs().items() if not p.exists() or p.read_text() != t}
    for path, text in stale.items():
        print(path.name)
        if not args.check:
            path.write_text(text)
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
