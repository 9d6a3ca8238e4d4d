"""edgekd from a checkout, installed or not:  python cli.py compress ..."""

from edgekd.__main__ import app

app()
