"""`tuneyard schema`: the job file's JSON Schema, or its settings as tables."""

from __future__ import annotations

import click

from launcher.cli._output import print_json
from launcher.jobfile.reference import settings_markdown
from launcher.jobfile.schema import json_schema


@click.command()
@click.option("--markdown", is_flag=True, help="Print every setting as Markdown tables instead.")
def schema(markdown: bool) -> None:
    """Print the JSON Schema of the job file. Editors check and complete job files with it."""
    if markdown:
        click.echo(settings_markdown(), nl=False)
    else:
        print_json(json_schema())
