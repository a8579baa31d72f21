"""The contract: what the embedded bus implements, and what a batch is."""

import inspect

import pytest

from iommubus import AddressSpace, Batch, Bus, Event, EventBus, Observer, Subscription, Translation, Unmap
from iommubus.bus.observer import LocalObserver
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.bus.translation import StampedTranslation

IMPLEMENTED: list[tuple[type, type]] = [
    (EventBus, Bus),
    (AddressSpace, LocalSpace),
    (Subscription, StreamSubscription),
    (Observer, LocalObserver),
    (Translation, StampedTranslation),
]


@pytest.mark.parametrize(("contract", "implementation"), IMPLEMENTED)
def test_everything_abstract_is_implemented_with_the_same_parameters(contract: type, implementation: type) -> None:
    """An emulator written against the contract runs on the embedded bus."""
    assert issubclass(implementation, contract)
    for name, promised in vars(contract).items():
        if not getattr(promised, "__isabstractmethod__", False):
            continue
        done = getattr(implementation, name)
        if isinstance(promised, property):
            assert isinstance(done, property)
            continue
        assert inspect.iscoroutinefunction(done) == inspect.iscoroutinefunction(promised)
        assert list(inspect.signature(done).parameters) == list(inspect.signature(promised).parameters)


@pytest.mark.parametrize("contract", [pair[0] for pair in IMPLEMENTED])
def test_every_promise_says_what_it_is(contract: type) -> None:
    for name, promised in vars(contract).items():
        if getattr(promised, "__isabstractmethod__", False) and not name.startswith("__a"):
            assert inspect.getdoc(promised), name


def test_a_batch_is_a_sequence_that_knows_its_giver() -> None:
    events: list[Event] = [Unmap("space", seq, 0, 0xFFF) for seq in (1, 2, 3)]
    giver = object()
    batch = Batch(7, events, giver)
    assert (batch.number, len(batch), list(batch), batch[0], batch[1:]) == (7, 3, events, events[0], events[1:])
    assert events[1] in batch
    assert batch.came_from(giver)
    assert not batch.came_from(object())
