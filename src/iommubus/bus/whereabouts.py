"""The spaces that one subscription is in, or has not let go of."""

from collections.abc import Callable

from ..contract import Contract
from ..errors import SubscribeError
from ..mapping import Mapping
from .attachment import Attachment, Home, Occupant, Ranges, State


class Whereabouts:
    """Where one subscription is present, and where it lingers.

    Args:
        member: The subscription.
        wanted: The ranges that it asked for.
        contract: What it can take.
        check_space: Raises if it must not be told of the space of a name.

    Attributes:
        present: Where it is told of changes; `None` while it is nowhere.
        lingering: Where it was, and has not let go of what it had.
        last_words: Space and number that its events carry while it is nowhere.
    """

    __slots__ = ("_check_space", "_contract", "_member", "_moves", "_wanted", "last_words", "lingering", "present")

    def __init__(
        self,
        member: Occupant,
        wanted: Ranges,
        contract: Contract,
        check_space: Callable[[str], None] | None = None,
    ) -> None:
        self.present: Attachment | None = None
        self._member = member
        self._wanted = wanted
        self._contract = contract
        self._check_space = check_space
        self.lingering: list[Attachment] = []
        self.last_words = ("", 0)
        self._moves = 0

    # -- moving --------------------------------------------------------------------

    def arrive(self, home: Home | None) -> None:
        """Be told of a space from now on.

        The producer is asked, and may answer by moving it again, or by anything
        else: the last move counts.

        Raises:
            GranuleRefused: It cannot follow a space of this granule.
            SubscribeError: As `Routes.add`, or it must not be told of it.
        """
        if home is None:
            return
        if self._check_space is not None:
            self._check_space(home.name)
        self._contract.check_space(home.name, home.shape.granule, self._member.caps)
        self._moves += 1
        attachment, move = Attachment(self._member, home, self._wanted), self._moves
        try:
            home.admit(attachment)
        except SubscribeError:
            raise
        except BaseException:  # an interrupt: the producer was told, and it is admitted
            self._settle(attachment, move)
            raise
        self._settle(attachment, move)

    def _settle(self, attachment: Attachment, move: int) -> None:
        if move == self._moves and self._member.state in (State.NEW, State.JOINED):
            self.present = attachment
            attachment.begin()
        else:
            attachment.home.forget(attachment)

    def depart(self) -> None:
        """Be told no more of the space where it is; all that it had there is taken away."""
        self._moves += 1
        attachment = self.present
        if attachment is None:
            return
        home = attachment.home
        attachment.withdraw()
        self.last_words = home.name, home.seq
        self.present = None
        earlier = next((one for one in self.lingering if one.home is home), None)
        if earlier is not None:
            earlier.absorb(attachment)
            home.forget(attachment)
        elif attachment.let_go:
            self._leave(attachment)
        else:
            home.part(attachment)
            self.lingering.append(attachment)

    def part(self) -> None:
        """Be told of nothing any more; each `sync` still waits for it."""
        for attachment in self._all():
            attachment.home.part(attachment)

    def forget(self) -> None:
        """Be waited for no more."""
        for attachment in self._all():
            attachment.home.forget(attachment)

    def narrow(self) -> None:
        """Have the producer told of a smaller demand."""
        if self.present is not None:
            self.present.home.narrow()

    # -- hand-overs ------------------------------------------------------------------

    def walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Read the table of the space where it is."""
        return [] if self.present is None else self.present.walk(first, last, limit)

    def share(self) -> None:
        """Have it fed together with others, if there is nothing else to remember."""
        if self.present is not None and self._member.mailbox.quiet:
            self.present.home.share(self.present)

    def unshared(self) -> None:
        """Note that it has to be put into by itself from now on."""
        if self.present is not None:
            self.present.home.unshared()

    def moved(self) -> None:
        """Note that its mailbox has more room."""
        if self.present is not None:
            self.present.home.moved()

    def acknowledge(self, number: int) -> None:
        """Take it that everything up to hand-over ``number`` is out of use."""
        if self.present is not None:
            self.present.coverage.acknowledge(number)
        for attachment in self.lingering:
            attachment.coverage.acknowledge(number)

    def forget_left(self) -> None:
        """Have the spaces that it has let go of forget it."""
        done = [attachment for attachment in self.lingering if attachment.let_go]
        if done:
            self.lingering = [attachment for attachment in self.lingering if attachment not in done]
            for attachment in done:
                self._leave(attachment)

    # -- failures --------------------------------------------------------------------

    def hold_back(self) -> None:
        """Count what is not acknowledged yet as in use, until a removal that failed was applied."""
        for attachment in self._all():
            attachment.hold_back()

    def release(self) -> None:
        """Take it that the removals that failed were applied."""
        for attachment in self._all():
            attachment.held_back = None

    # -- inside ------------------------------------------------------------------------

    def _leave(self, attachment: Attachment) -> None:
        """Have a space forget it: what could not be mapped there is of no interest any more."""
        attachment.home.forget(attachment)
        self._member.map_failures.pop(attachment.home.name)

    def _all(self) -> list[Attachment]:
        return self.lingering if self.present is None else [*self.lingering, self.present]
