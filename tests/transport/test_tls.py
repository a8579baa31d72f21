"""TLS 1.3, both sides with a certificate: who has none that is vouched for does not get in."""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from iommubus.errors import BadCertificate, NoCredentials
from iommubus.transport.credentials import Peer, tls_peer
from iommubus.transport.tls import Identity, client_context, server_context


class Files:
    """Writes certificates where `Identity` finds them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def identity(self, name: str, own: trustme.CA, trusted: trustme.CA) -> Identity:
        """Return an identity that ``own`` vouches for and that trusts whom ``trusted`` vouches for."""
        issued = own.issue_cert(name)
        certificate, key, authority = (self._directory / f"{name}.{part}.pem" for part in ("cert", "key", "ca"))
        for place, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(certificate, append=place > 0)
        issued.private_key_pem.write_to_path(key)
        trusted.cert_pem.write_to_path(authority)
        return Identity(str(certificate), str(key), str(authority))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def step(action: Callable[[], object]) -> bool:
    """Go as far as the bytes that have come allow; say whether it is done."""
    try:
        action()
    except ssl.SSLWantReadError:
        return False
    return True


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Do a handshake in memory, and one byte each way behind it, which shows what the server thinks of the client."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    daemon = server.wrap_bio(up, down, server_side=True)
    caller = client.wrap_bio(down, up, server_hostname=name)
    done = [False, False]
    while not all(done):
        done = [step(caller.do_handshake), step(daemon.do_handshake)]
    daemon.write(b"!")
    assert caller.read(1) == b"!"
    return daemon, caller


def test_both_sides_learn_each_others_names(files: Files) -> None:
    """In version 1.3, and without a ticket that would let the client come back unseen."""
    ca = trustme.CA()
    server = server_context(files.identity("bus.example", ca, ca))
    client = client_context(files.identity("vm1.example", ca, ca))

    daemon, caller = shake_hands(server, client, "bus.example")

    assert tls_peer(daemon) == Peer(names=("vm1.example",))
    assert tls_peer(caller) == Peer(names=("bus.example",))
    assert daemon.version() == caller.version() == "TLSv1.3"
    assert caller.session is None or not caller.session.has_ticket


def test_a_client_of_another_authority_is_refused(files: Files) -> None:
    ca, other = trustme.CA(), trustme.CA()
    server = server_context(files.identity("bus.example", ca, ca))
    client = client_context(files.identity("vm1.example", other, ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "bus.example")


def test_a_client_without_a_certificate_is_refused(files: Files) -> None:
    ca = trustme.CA()
    server = server_context(files.identity("bus.example", ca, ca))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=ca.cert_pem.bytes().decode("ascii"))
    with pytest.raises(ssl.SSLError, match=r"(?i)peer did not return a certificate"):
        shake_hands(server, client, "bus.example")


def test_a_daemon_of_another_authority_is_refused(files: Files) -> None:
    ca, other = trustme.CA(), trustme.CA()
    server = server_context(files.identity("bus.example", other, ca))
    client = client_context(files.identity("vm1.example", ca, ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "bus.example")


def test_a_daemon_of_another_name_is_refused(files: Files) -> None:
    ca = trustme.CA()
    server = server_context(files.identity("bus.example", ca, ca))
    client = client_context(files.identity("vm1.example", ca, ca))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, client, "other.example")


@pytest.mark.parametrize("side", ["server", "client"])
def test_an_older_version_is_refused(files: Files, side: str) -> None:
    ca = trustme.CA()
    server = server_context(files.identity("bus.example", ca, ca))
    client = client_context(files.identity("vm1.example", ca, ca))
    old = {"server": server, "client": client}[side]
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client, "bus.example")


def test_a_peer_that_showed_no_certificate_has_no_credentials(files: Files) -> None:
    ca = trustme.CA()
    careless = server_context(files.identity("bus.example", ca, ca))
    careless.verify_mode = ssl.CERT_NONE
    client = client_context(files.identity("vm1.example", ca, ca))
    daemon, _ = shake_hands(careless, client, "bus.example")
    with pytest.raises(NoCredentials):
        tls_peer(daemon)


@pytest.mark.parametrize("part", ["certificate", "key", "authority"])
@pytest.mark.parametrize("make", [server_context, client_context])
def test_a_file_that_is_missing_is_named(files: Files, part: str, make: Callable[[Identity], ssl.SSLContext]) -> None:
    identity = files.identity("bus.example", ca := trustme.CA(), ca)
    path = Path(getattr(identity, part))
    path.unlink()
    with pytest.raises(BadCertificate, match="No such file") as bad:
        make(identity)
    assert bad.value.path == str(path)


@pytest.mark.parametrize("part", ["certificate", "key", "authority"])
def test_a_file_that_is_damaged_is_named(files: Files, part: str) -> None:
    identity = files.identity("bus.example", ca := trustme.CA(), ca)
    path = Path(getattr(identity, part))
    path.write_text("no PEM at all", encoding="ascii")
    with pytest.raises(BadCertificate) as bad:
        server_context(identity)
    assert str(path) in bad.value.path


def test_a_key_of_another_certificate_is_refused(files: Files) -> None:
    ca = trustme.CA()
    one, other = files.identity("one", ca, ca), files.identity("other", ca, ca)
    with pytest.raises(BadCertificate, match=r"(?i)key values mismatch"):
        server_context(Identity(one.certificate, other.key, one.authority))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(files: Files, tmp_path: Path) -> None:
    identity = files.identity("bus.example", ca := trustme.CA(), ca)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", identity.key, "-aes256", "-passout", "pass:secret", "-out", str(locked)],  # noqa: S607
        check=True,
    )
    with pytest.raises(BadCertificate, match="encrypted"):
        server_context(Identity(identity.certificate, str(locked), identity.authority))
