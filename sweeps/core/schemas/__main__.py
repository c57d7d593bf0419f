"""Write results/README.md of this checkout."""

from pathlib import Path

from sweeps.core.schemas import readme

if __name__ == "__main__":
    file = Path(__file__).parents[3] / "results" / "README.md"
    file.write_text(readme())
    print(f"wrote {file}")
