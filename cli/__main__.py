"""`python -m restore.cli`."""

from restore.cli import app

app()
