"""``python -m hepflow``."""

from hepflow.cli import main

main()
