"""The command line. Each command opens the store, calls the library, prints: results to stdout, the rest to stderr.

Nothing heavy is imported at the top: `hybrid --help` must not load torch.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from hybrid.commands import (
    asking,
    behaviour,
    conflicts,
    consolidation,
    editing,
    evaluation,
    facts,
    generations,
    locating,
    reader,
    schedule,
    scope,
    steer,
    store,
    training,
    vectors,
)
from stores.errors import HybridError


class Program(click.Group):
    """Turns the family of store errors into one line on stderr and an exit code, in one place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HybridError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hybrid-memory")
def main() -> None:
    """Correct what an open-weight language model says, and keep everything else as it was.

    Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 locked.
    """


for command in (
    facts.add_fact,
    facts.add_facts,
    facts.facts_group,
    facts.forget,
    asking.ask,
    asking.chat,
    store.log,
    store.reindex,
    store.doctor,
    store.paths,
    store.demo,
    consolidation.consolidate,
    generations.generations,
    schedule.cron,
    editing.edit,
    locating.stats,
    locating.trace,
    locating.locate,
    vectors.vectors,
    evaluation.evaluation,
    scope.feedback,
    scope.scope,
    reader.reader,
    conflicts.conflicts,
    behaviour.add_rule,
    behaviour.rules_group,
    behaviour.suppress,
    steer.steer,
    training.train,
):
    main.add_command(command)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for your shell.

    \b
    Example:
      eval "$(hybrid completion bash)"
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "hybrid", "_HYBRID_COMPLETE").source())


if __name__ == "__main__":
    main(prog_name="hybrid")
