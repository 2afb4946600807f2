"""`accelerate launch recipes/train.py cifar10/simclr`: what `sslzoo train` does, in every process that Accelerate starts."""

import sys

from sslzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
