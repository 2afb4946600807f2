"""What it costs to open a folder of many images: CPU seconds until the first batch could be asked for.

python benches/listing.py                            200,000 files in 1,000 class folders, each 100 bytes of a JPEG's beginning
python benches/listing.py --files 1281167 --classes 1000
"""

import argparse
import os
import resource
import tempfile
import time

from sslzoo.data.fingerprint import fingerprint_rows
from sslzoo.data.source import open_source


def make(folder: str, files: int, classes: int, size: int) -> None:
    """Files of the given size, a part of them in each class folder."""
    content = os.urandom(size)
    for label in range(classes):
        os.makedirs(os.path.join(folder, "train", f"n{label:08}"))
        for number in range(label, files, classes):
            with open(os.path.join(folder, "train", f"n{label:08}", f"n{label:08}_{number}.JPEG"), "wb") as file:
                file.write(content)


def timed(what: str, work):
    """The result of `work`, whose seconds are printed."""
    before, begun = time.process_time(), time.perf_counter()
    result = work()
    cpu, wall = time.process_time() - before, time.perf_counter() - begun
    print(f"{what:24} {cpu:6.1f} CPU s  {wall:6.1f} s")
    return result


def main() -> None:
    """Makes the files, opens them and prints what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=100, help="of each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed(f"making {options.files} files", lambda: make(folder, options.files, options.classes, options.bytes))
        opened = timed("listing", lambda: open_source(folder, "train", None, None))
        assert len(opened.rows) == options.files and len(opened.label_names) == options.classes
        timed("fingerprint", lambda: fingerprint_rows(opened.rows, opened.rows.lengths(), opened.labels))
        print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
