"""Run the gallery: ``python examples/run_all.py [names]``.

Pictures go to docs/gallery; in the page of each example its output and its listing are renewed.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
PAGES = HERE.parent / "docs/gallery"


def renewed(page: str, script: str, output: str | None = None) -> str:
    """The page with this listing, and this output if there is one."""
    listing = f"## The whole script\n\n```python\n{script}```\n"
    page = re.sub(r"## The whole script\n.*\Z", lambda _: listing, page, flags=re.S)
    if output is None:
        return page
    return re.sub(r"```text\n.*?```\n", lambda _: f"```text\n{output}```\n", page, flags=re.S)


def main(names: list[str]) -> None:
    """Run the examples of these names, or all."""
    for script in sorted(HERE.glob("*.py")):
        if script.name == "run_all.py" or (names and script.stem not in names):
            continue
        begin = time.perf_counter()
        command = [sys.executable, "-W", "error", str(script)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"{script.stem}: {time.perf_counter() - begin:.1f} s\n{output}")
        page = PAGES / f"{script.stem}.md"
        text = renewed(page.read_text(encoding="utf-8"), script.read_text("utf-8"), output)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
