"""`pushbroker completion`: the script that teaches a shell our commands and names."""

import click

from broker.command.base import standard


@click.command(
    "completion",
    **standard(
        json=False,
        data=False,
        examples=[
            'eval "$(pushbroker completion bash)"',
            "pushbroker completion zsh > ~/.zfunc/_pushbroker",
            "pushbroker completion fish > ~/.config/fish/completions/pushbroker.fish",
        ],
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Besides commands and flags it completes the names of brands, users, stores and devices from the data directory.
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only where used

    completion = get_completion_class(shell)
    assert completion is not None  # the choice above
    root = context.find_root().command
    # The template alone: `source()` would start bash to ask it for its version.
    maker = completion(root, {}, "pushbroker", "_PUSHBROKER_COMPLETE")
    click.echo(maker.source_template % maker.source_vars())
