"""What all commands share: how they are grouped, how errors become one line and an exit code, common options."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

AIM_MISSED, WRONG_INPUT = 1, 2  # exit codes; see the module `cli`

out = Console()
err = Console(stderr=True)


class Commands(TyperGroup):
    """Turns errors of a person into one line and an exit code, and takes `--debug` anywhere."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = [argument for argument in args if argument != "--debug"]
            ctx.meta["debug"] = True  # of this command and those below it
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(130) from None
        except (ValueError, OSError) as error:
            if ctx.meta.get("debug"):
                raise
            err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            given = isinstance(error, ValueError | FileNotFoundError | IsADirectoryError | NotADirectoryError)
            raise typer.Exit(WRONG_INPUT if given else AIM_MISSED) from None


def command_group(help_text: str) -> typer.Typer:
    """A group of commands, with its help."""
    return typer.Typer(
        cls=Commands,
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Set a key of the config, e.g. optimizer.lr=1e-3. Repeatable."
    ),
]
McpOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mcp", metavar="COMMAND", help="An MCP server whose tools the model may call: command or address. Repeatable."
    ),
]
