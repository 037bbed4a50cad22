#!/usr/bin/env python
"""Draws a training's loss, accuracy and learning rate from its event files.

python scripts/plot_run.py --model_dir=MODEL [--output=curves.png]
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from common import curves
from common.errors import UserError


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--output", help=f"default: {curves.FILE_NAME} in the model directory")
    arguments = parser.parse_args(argv)
    output = arguments.output or os.path.join(arguments.model_dir, curves.FILE_NAME)
    try:
        print(curves.draw(arguments.model_dir, output))
    except UserError as error:
        sys.exit(f"plot_run.py: {error}")


if __name__ == "__main__":
    main()
