"""Commands that put consolidation on a schedule. Heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path

import click

from hybrid.commands.options import default_store


@click.group()
def cron() -> None:
    """Consolidate on a schedule, by crontab or systemd timer.

    \b
    Example:
      hybrid cron install --at 03:00
    """


STORE = click.option("--store", type=click.Path(file_okay=False, path_type=Path), envvar="HYBRID_HOME", help="Folder of the store.  [env: HYBRID_HOME]")


@cron.command()
@click.option("--at", help="Daily, at this time.  [default: 03:00]")
@click.option("--every", metavar="TIME", help="Instead: every 15m, 6h, 1d.")
@click.option("--with", "how", type=click.Choice(["crontab", "systemd"]), help="Which of the two.  [default: what is there, crontab first]")
@click.option("--print", "only_print", is_flag=True, help="Only print the entry.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@STORE
def install(store: Path | None, at: str | None, every: str | None, how: str | None, only_print: bool, yes: bool) -> None:
    """Write the entry, in place of an earlier one of this store. It is shown first.

    \b
    Example:
      hybrid cron install --every 6h --print
    """
    from hybrid.consolidation import schedule

    try:
        when = schedule.Schedule.read(at, every)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    folder = store or default_store()
    chosen = how or ("crontab" if only_print else schedule.kind())
    text = schedule.shown(folder, when, chosen)
    if only_print:
        click.echo(text, nl=False)
        return
    click.echo(text, nl=False, err=True)
    if not yes:
        click.confirm(f"Write this to {'your crontab' if chosen == 'crontab' else 'your systemd units'}?", abort=True, err=True)
    schedule.install(folder, when, chosen)
    click.echo(f"Installed. `hybrid cron status` shows it; what it prints goes to {folder / 'consolidate.log' if chosen == 'crontab' else 'the journal'}.")


@cron.command()
@STORE
def status(store: Path | None) -> None:
    """What is scheduled for the store.

    \b
    Example:
      hybrid cron status
    """
    from hybrid.consolidation import schedule

    found = schedule.installed(store or default_store())
    click.echo("\n".join(found) if found else "Nothing is scheduled; `hybrid cron install` does that.")


@cron.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@STORE
def remove(store: Path | None, yes: bool) -> None:
    """Take the store's schedule out again.

    \b
    Example:
      hybrid cron remove --yes
    """
    from hybrid.consolidation import schedule

    if not yes:
        click.confirm("Take the schedule of this store out?", abort=True, err=True)
    for line in schedule.remove(store or default_store()):
        click.echo(f"Removed: {line}")
