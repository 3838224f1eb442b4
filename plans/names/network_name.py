"""The network that the text of an option names after a final "@", where a source or a bundle has several."""

from collections.abc import Sequence

from fewstep.plans.errors import UserError


def split_network(text: str) -> tuple[str, str | None]:
    """Split `TEXT@NETWORK` into the text and the name of the network. The name is None if the text has none."""
    rest, _, network = text.rpartition("@")
    return (rest, network) if rest and network.isidentifier() else (text, None)


def check_network(network: str, networks: Sequence[str], option: str) -> None:
    """Raise UserError unless `network`, which `option` names, is one of `networks`."""
    if network not in networks:
        what = f"{option} names the network {network}, which does not exist here"
        others = "leave @ out" if len(networks) == 1 else ""
        raise UserError(what, others or f"name one of {', '.join(networks)}")


def list_choices(text: str, networks: Sequence[str]) -> str:
    """Return the fix of an option that does not name one of several networks: "give TEXT@a for the noisiest steps or
    TEXT@b for those after them", or, of more than two, "give TEXT@a, TEXT@b or TEXT@c". The first of `networks` runs
    the last steps, and the others are in the order of their steps."""
    last, *earlier = networks
    if len(earlier) == 1:
        return f"give {text}@{earlier[0]} for the noisiest steps or {text}@{last} for those after them"
    return f"give {', '.join(f'{text}@{network}' for network in earlier)} or {text}@{last}"
