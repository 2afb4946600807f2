"""What variants of recipes came to, as a Markdown table: kNN top-1 (k = 20) as it went, rank and deviation of the features at the end.

    python benches/variants.py VARIANTS FOLDER

VARIANTS: a file with a recipe and its changes on each line. FOLDER: line n was trained into FOLDER/n.
"""

import argparse
from pathlib import Path

from sslzoo.run import Run

_KNN = "knn_top1 k=20 T=0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print("| recipe | kNN top-1, untrained and then as it went | effective rank | feature_std | step |\n|---|---|---|---|---|")
    for number, line in enumerate(options.variants.read_text(encoding="utf-8").splitlines(), 1):
        run = Run(options.folder / str(number))
        lines = run.metrics() if run.folder.exists() else []
        found = [100 * line[key] for line in lines for key in line if key.startswith(_KNN)]
        last = next((line for line in reversed(lines) if "feature_std" in line), {})
        print(
            f"| {line} | {', '.join(f'{value:.1f}' for value in found) or 'none'} | {last.get('feature_rank', float('nan')):.1f} "
            f"| {last.get('feature_std', float('nan')):.3f} | {last.get('step', 0)} |"
        )


if __name__ == "__main__":
    main()
