"""Two ends use what both can, or say why they cannot."""

from itertools import product

import pytest

from iommubus.errors import BadMessage, FeatureRefused, VersionRefused
from iommubus.wire.messages.greeting import Feature, Hello, Welcome
from iommubus.wire.negotiation import FEATURES, LEAST_VERSION, MOST_VERSION, Agreement, accept, negotiate

NONE, BOTH, NEWER = Feature(0), Feature.DESCRIPTORS | Feature.RESUME, 1 << 63
BITS = range(4)


def test_version_1_is_spoken_and_all_features_are_known() -> None:
    assert (LEAST_VERSION, MOST_VERSION) == (1, 1)
    assert FEATURES == BOTH == 3


@pytest.mark.parametrize(("least", "most"), [(0, 1), (1, 1), (1, 9), (0, 2**64 - 1)])
def test_the_newest_version_of_both_is_used(least: int, most: int) -> None:
    assert negotiate(Hello(least, most)) == Agreement(1, NONE)


@pytest.mark.parametrize(("least", "most"), [(0, 0), (2, 2), (2, 9), (1, 0), (5, 3)])
def test_no_version_in_common_is_refused_with_both_ranges(least: int, most: int) -> None:
    with pytest.raises(VersionRefused) as caught:
        negotiate(Hello(least, most))

    assert vars(caught.value) == {"least": least, "most": most, "known_least": 1, "known_most": 1}


@pytest.mark.parametrize(("required", "optional", "offered"), [*product([0, 1, 2, 3, NEWER, NEWER | 1], BITS, BITS)])
def test_features_are_used_that_are_asked_for_and_offered(required: int, optional: int, offered: int) -> None:
    """Every case: a required feature that is not offered, or that nobody knows yet, is refused by name."""
    hello = Hello(1, 1, "", required, optional | NEWER)
    if required & ~offered:
        with pytest.raises(FeatureRefused) as caught:
            negotiate(hello, Feature(offered))
        assert vars(caught.value) == {"required": required, "offered": offered}
    else:
        assert negotiate(hello, Feature(offered)) == Agreement(1, Feature((required | optional) & offered))


@pytest.mark.parametrize(("required", "optional", "offered"), [*product(BITS, BITS, BITS)])
def test_a_client_takes_every_answer_that_a_daemon_gives(required: int, optional: int, offered: int) -> None:
    hello = Hello(1, 1, "", required, optional)
    if not required & ~offered:
        agreed = negotiate(hello, Feature(offered))

        assert accept(hello, Welcome(agreed.version, agreed.features, 1, 1)) == agreed


@pytest.mark.parametrize("version", [0, 3, 2**64 - 1])
def test_a_client_refuses_a_version_that_it_did_not_ask_for(version: int) -> None:
    with pytest.raises(BadMessage, match=f"version of Welcome is {version}: versions 1 to 2 were asked for"):
        accept(Hello(1, 2), Welcome(version, 0, 1, 1))


@pytest.mark.parametrize("features", [0, 2, 4, 5, 7])
def test_a_client_refuses_features_that_are_not_what_it_asked_for(features: int) -> None:
    with pytest.raises(BadMessage, match=f"features of Welcome is {features:#x}: 0x1 are required, 0x2 are optional"):
        accept(Hello(1, 1, "", 1, 2), Welcome(1, features, 1, 1))
