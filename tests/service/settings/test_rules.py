"""Who may do what: nothing without a rule, and a refusal names the one that is missing."""

import itertools
import tomllib

import msgspec
import pytest
from hypothesis import given, strategies as st

from iommubus.errors import RuleMissing
from iommubus.service.settings.rules import Action, Rule, Rules, quoted
from iommubus.transport.credentials import Peer

OWN = 990
QEMU = Peer(7, 107, (36, 107))
REMOTE = Peer(names=("vm1.example", "spiffe://lab/vm1"))
NOBODY = Peer()


@pytest.mark.parametrize("action", Action)
def test_the_daemons_own_user_may_everything_and_others_nothing(action: Action) -> None:
    """Root is another user as well."""
    rules = Rules((), OWN)
    assert rules.allows(Peer(7, OWN, (OWN,)), action, "vtd0")
    for peer in QEMU, REMOTE, NOBODY, Peer(1, 0, (0,)), Peer(7, 107, (OWN,)):
        assert not rules.allows(peer, action, "vtd0")


@pytest.mark.parametrize(("allowed", "asked"), list(itertools.product(Action, Action)))
def test_a_rule_allows_what_it_says_and_no_more(allowed: Action, asked: Action) -> None:
    rule = msgspec.convert({"uid": 107, allowed.value: ["vtd0/*"]}, Rule)
    rules = Rules([rule], OWN)
    assert rules.allows(QEMU, asked, "vtd0/00:03.0") is (allowed is asked)
    assert not rules.allows(QEMU, asked, "vtd1/00:03.0")
    assert not rules.allows(Peer(7, 108, (36, 107)), asked, "vtd0/00:03.0")


ABOUT = [
    (Rule(uid=107), {QEMU}),
    (Rule(gid=36), {QEMU}),
    (Rule(gid=107), {QEMU}),
    (Rule(gid=0), set[Peer]()),
    (Rule(uid=0), set[Peer]()),
    (Rule(uid=107, gid=36), {QEMU}),
    (Rule(uid=107, gid=37), set[Peer]()),
    (Rule(uid=108, gid=36), set[Peer]()),
    (Rule(certificate="vm1.example"), {REMOTE}),
    (Rule(certificate="spiffe://lab/*"), {REMOTE}),
    (Rule(certificate="*.example"), {REMOTE}),
    (Rule(certificate="vm2.*"), set[Peer]()),
    (Rule(certificate="VM1.example"), set[Peer]()),
    (Rule(certificate="*", uid=107), set[Peer]()),
    (Rule(anybody=True), {QEMU, REMOTE, NOBODY}),
    (Rule(), set[Peer]()),
    (Rule(anybody=True, uid=107), set[Peer]()),
]


@pytest.mark.parametrize(("rule", "peers"), ABOUT)
def test_a_rule_is_about_those_of_whom_all_of_it_holds(rule: Rule, peers: set[Peer]) -> None:
    assert {peer for peer in (QEMU, REMOTE, NOBODY) if rule.is_about(peer)} == peers


def test_a_rule_about_nobody_or_about_two_things_is_wrong() -> None:
    assert Rule(publish=("*",)).wrong.startswith("at least one of")
    assert Rule(anybody=True, certificate="x").wrong.startswith("either")
    assert Rule(uid=0).wrong == Rule(anybody=True).wrong == ""


def test_one_rule_is_enough() -> None:
    rules = Rules([Rule(uid=107, publish=("a",)), Rule(gid=36, publish=("x", "b"))], OWN)
    assert [rules.allows(QEMU, Action.PUBLISH, name) for name in "abc"] == [True, True, False]


@pytest.mark.parametrize(
    ("globs", "space", "lacking"),
    [
        (("nic", "vtd0"), "vtd0", None),
        (("nic",), None, None),
        (("nic",), "vtd0", "vtd0"),
        (("vtd0",), "vtd0", "nic"),
        ((), None, "nic"),
    ],
)
def test_to_subscribe_takes_the_rule_for_the_endpoint_and_for_its_space(
    globs: tuple[str, ...], space: str | None, lacking: str | None
) -> None:
    rules = Rules([Rule(uid=107, subscribe=globs)], OWN)
    if lacking is None:
        rules.check_subscribe(QEMU, "nic", space)
        return
    with pytest.raises(RuleMissing) as refused:
        rules.check_subscribe(QEMU, "nic", space)
    assert refused.value.name == lacking


@pytest.mark.parametrize("peer", [QEMU, REMOTE, NOBODY])
def test_the_rule_that_a_refusal_names_allows_it(peer: Peer) -> None:
    with pytest.raises(RuleMissing) as refused:
        Rules((), OWN).check(peer, Action.OBSERVE, "vtd0")
    line = refused.value.rule.removeprefix("[[rules]] ")
    rule = msgspec.convert(tomllib.loads(f"rule = {{{line}}}")["rule"], Rule)
    assert (refused.value.peer, refused.value.action) == (str(peer), "observe")
    Rules([rule], OWN).check(peer, Action.OBSERVE, "vtd0")


@given(st.text())
def test_what_a_peer_wrote_stays_inside_its_quotes(text: str) -> None:
    """No name breaks a line of the log, or looks like another rule."""
    line = quoted(text)
    assert line.isprintable()
    if not any(0xD800 <= ord(char) < 0xE000 for char in text):
        assert tomllib.loads(f"a = {line}") == {"a": text}


def test_only_who_is_named_may_be_killed() -> None:
    rules = Rules([Rule(uid=107, fence="kill"), Rule(certificate="*")], OWN)
    assert [rules.may_kill(peer) for peer in (QEMU, REMOTE, NOBODY, Peer(7, OWN))] == [True, False, False, False]
