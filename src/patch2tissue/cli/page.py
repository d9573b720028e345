"""What the commands that open a page share."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from starlette.applications import Starlette

Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
AllowOtherHosts = Annotated[
    bool, typer.Option("--allow-other-hosts", help="Let other machines in: they need the address with its token.")
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Show pictures that links bring in from outside of the folder.")
]
OpenBrowser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")]


def load_extra(module: str) -> None:
    """Import a module that needs the extra `viewer`.

    Raises:
        ConfigError: if a package of the extra is missing, saying what to install.
    """
    from patch2tissue.errors import ConfigError

    try:
        import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"This page needs the packages of the extra 'viewer' ({error.name} is missing). Install them with: "
            "pip install 'patch2tissue[viewer]'"
        ) from None


def check_host(host: str, allow_other_hosts: bool) -> None:
    """Refuse an address that others can reach unless that is asked for.

    Raises:
        ConfigError: if it is not.
    """
    from patch2tissue.errors import ConfigError
    from patch2tissue.web.serving import LOCAL_HOSTS

    if host not in LOCAL_HOSTS and not allow_other_hosts:
        raise ConfigError(f"{host} can be reached from other machines. Add --allow-other-hosts if that is meant.")


def open_page(
    make: Callable[[str, tuple[str, ...]], Starlette],
    told: str,
    *,
    host: str,
    port: int,
    or_any: bool = False,
    query: str = "",
    allow_other_hosts: bool,
    browser: bool,
) -> None:
    """Serve a page until Ctrl-C; its address is printed alone on a line of standard output.

    Args:
        make: the application from its token and the host names that it answers to.
        told: what the page is about.
        host: address to listen on.
        port: 0 for any.
        or_any: take any port if this one is taken.
        query: end of the address.
        allow_other_hosts: whether other machines may ask.
        browser: open the page.

    Raises:
        ConfigError: if the address cannot be had, or others could reach it unasked.
    """
    import webbrowser

    from patch2tissue.progress import console
    from patch2tissue.web.serving import LOCAL_HOSTS, listening_socket, new_token, serve

    check_host(host, allow_other_hosts)
    token = new_token()
    listener = listening_socket(host, port, or_any=or_any)
    own = host if host not in ("0.0.0.0", "::") else "localhost"
    address = f"http://{f'[{own}]' if ':' in own else own}:{listener.getsockname()[1]}/{token}/{query}"
    if allow_other_hosts:
        console.print(
            "[bold yellow]Warning:[/] other machines can reach this page. Whoever has the address below sees and does "
            "what you can on it, and what is sent is not encrypted.",
            highlight=False,
        )
    typer.echo(address)
    console.print(f"{told}. Ctrl-C ends the page.", highlight=False)
    if browser:
        webbrowser.open(address)
    serve(make(token, ("*",) if allow_other_hosts else LOCAL_HOSTS), listener)
