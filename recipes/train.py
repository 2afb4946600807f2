"""`sslzoo train` as a script for launchers: `accelerate launch recipes/train.py cifar10/simclr`."""

import sys

from sslzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
