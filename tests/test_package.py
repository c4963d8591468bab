"""What is installed is what is here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_INSTALLED = ("*.c", "*.so", "__pycache__", "*.pyc")


def test_a_wheel_has_every_file_of_the_project_and_the_part_in_c(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(
        ROOT / "proxy", source / "proxy", ignore=shutil.ignore_patterns("*.so", "*.pyc")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("proxy/")}
    in_c = {str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "proxy").rglob("*.c")}
    built = {name for name in packed if name.partition(".")[0] in in_c}
    assert len(built) == 2 * len(in_c) == 4, built  # the types and the code of each
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "proxy").rglob("*")
        if path.is_file() and not any(path.match(each) for each in NOT_INSTALLED)
    }
    assert packed - built == here - built
