"""`pushbroker reference` (hidden): docs/cli.md and docs/send.schema.json, made from the code; tests compare."""

from collections.abc import Iterator

import click

from broker.command.base import Command, standard

_HEAD = """# Commands

This file is what `pushbroker reference > docs/cli.md` prints.

Data goes to stdout, words go to stderr. `--json` prints one JSON value: a list where there can be many things, an
object where there is one; `tail` and `message watch` print one object on each line. Times are ISO 8601 in UTC.

`--data DIR` says which broker is meant; without it `$PUSHBROKER_DATA`, else `/var/lib/pushbroker` where that exists,
else `~/.local/share/pushbroker`. It may stand before or after the command. Every flag can be an environment variable:
`PUSHBROKER_`, the command, the flag, as in `PUSHBROKER_SEND_TTL=1h`; the flags of `serve` are settings, whose
variables are in [configuration.md](configuration.md).

Where a broker runs on the directory, commands act through its admin socket (`DATA/admin.sock`); otherwise they act on
the records directly. `send`, `tail`, `message watch`, `message withdraw`, `campaign`, `status` and `connections` need a
running broker.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failure |
| 2 | the command was not used right |
| 3 | not found |
| 4 | refused |
| 5 | the broker is unreachable |
| 130 | stopped with Ctrl-C |
"""


@click.command(
    "reference",
    hidden=True,
    **standard(
        json=False,
        data=False,
        examples=["pushbroker reference > docs/cli.md", "pushbroker reference --schema > docs/send.schema.json"],
    ),
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of requests to BRAND/send instead.")
@click.pass_context
def command(context: click.Context, schema: bool) -> None:
    """Print the reference of all commands in Markdown."""
    if schema:
        from broker.bridge.schema import schema as schema_of_requests  # noqa: PLC0415 - only where used
        from broker.command.output import print_json  # noqa: PLC0415 - only where used

        print_json(schema_of_requests())
        return
    root = context.find_root()
    click.echo(_HEAD + "".join(_sections(root.command, root)), nl=False)


def _sections(group: click.Command, context: click.Context) -> Iterator[str]:
    assert isinstance(group, click.Group)  # called with groups only
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None  # it was listed
        inner = click.Context(found, info_name=name, parent=context)
        if isinstance(found, click.Group):
            yield f"\n## {inner.command_path}\n\n{found.help}\n" if group is context.find_root().command else ""
            yield from _sections(found, inner)
        else:
            yield _section(found, inner)


def _section(found: click.Command, context: click.Context) -> str:
    level = "##" if context.command_path.count(" ") == 1 else "###"
    usage = " ".join(found.collect_usage_pieces(context))
    lines = [
        f"\n{level} {context.command_path}\n",
        f"`{context.command_path} {usage}`\n",
        f"{_prose(found.help or '')}\n",
    ]
    rows = []
    for parameter in found.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record and parameter.name not in ("help", "data"):
            usage_of, words = (text.replace("|", "\\|") for text in record)
            rows.append(f"| `{usage_of}` | {words} |")
    if rows:
        lines.append("| option | |\n|---|---|\n" + "\n".join(rows) + "\n")
    if isinstance(found, Command) and found.examples:
        lines.append("```sh\n" + "\n".join(found.examples) + "\n```\n")
    return "\n".join(lines)


def _prose(text: str) -> str:
    """The help text as paragraphs, each on one line."""
    return "\n\n".join(" ".join(paragraph.replace("\b", "").split()) for paragraph in text.split("\n\n"))
