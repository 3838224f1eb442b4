"""The options that change networks, and which of several networks each option names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.export.changes import read_change
from fewstep.export.lora.slots import NO_SLOTS, SlotRequest
from fewstep.plans.errors import UserError
from fewstep.plans.names.network_name import check_network, list_choices, split_network
from fewstep.plans.names.user_call import NamedCall
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.networks import loras_of


@dataclass(frozen=True)
class Change:
    """A value of `--change`, and the network that it names, or None."""

    call: NamedCall
    network: str | None = None

    @property
    def text(self) -> str:
        """The option's text without folders."""
        return self.call.text if self.network is None else f"{self.call.text}@{self.network}"


@dataclass(frozen=True)
class NetworkChanges:
    """The changes of one network, in the order in which they are applied."""

    loras: Sequence[Lora] = ()
    changes: Sequence[NamedCall] = ()
    slots: SlotRequest = NO_SLOTS


@dataclass(frozen=True)
class Changes:
    """The options that change networks. `slots` has each value of `--lora-slots` as its pattern and the network that it
    names, or None for every network."""

    loras: Sequence[Lora] = ()
    changes: Sequence[Change] = ()
    slots: Sequence[tuple[str, str | None]] = ()
    rank: int = NO_SLOTS.rank

    def of(self, network: str, networks: Sequence[str]) -> NetworkChanges:
        """Return the changes of one of the source's networks. Raises UserError for an option that names another one,
        and for a file or a change that names none of several."""
        for pattern, name in self.slots:
            if name is not None:
                check_network(name, networks, f"--lora-slots {pattern}@{name}")
        for change in self.changes:
            if change.network is not None:
                check_network(change.network, networks, f"--change {change.text}")
            elif len(networks) > 1:
                what = f"--change {change.text} does not say which network it changes: {' or '.join(networks)}"
                raise UserError(what, list_choices(f"--change {change.text}", networks))
        patterns = [pattern for pattern, name in self.slots if name in (None, network)]
        return NetworkChanges(
            loras_of(network, networks, self.loras),
            [change.call for change in self.changes if change.network in (None, network)],
            SlotRequest(patterns, self.rank) if patterns else NO_SLOTS,
        )


def read_network_change(text: str) -> Change:
    """Read a value of `--change`: NAME[:ARGUMENTS][@NETWORK]. The last argument may be an existing file with an "@"."""
    last = text.rpartition(":")[2].rpartition(",")[2]
    name, network = (text, None) if Path(last).exists() else split_network(text)
    return Change(read_change(name), network)
