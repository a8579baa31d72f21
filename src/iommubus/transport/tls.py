"""TLS as the bus uses it: version 1.3, and both sides show a certificate.

A peer is known by the names in its certificate, so each connection shows it
anew: no session is resumed.

Source: RFC 8446; Python's ``ssl``.
"""

import ssl
from pathlib import Path

from msgspec import Struct

from ..errors import BadCertificate


class Identity(Struct, frozen=True, forbid_unknown_fields=True):
    """The files of one side; all of them PEM.

    Attributes:
        certificate: Its certificate, and those between it and the authority.
        key: The certificate's private key.
        authority: Certificates of whoever vouches for the other side.
    """

    certificate: str
    key: str
    authority: str


def server_context(identity: Identity) -> ssl.SSLContext:
    """Return how a daemon speaks TLS.

    Raises:
        BadCertificate: A file cannot be loaded.
    """
    context = _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), identity)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # whoever comes back shows its certificate again
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """Return how a client speaks TLS; it checks that the daemon has the name that was called.

    Raises:
        BadCertificate: A file cannot be loaded.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), identity)


def _loaded(context: ssl.SSLContext, identity: Identity) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    for path in (identity.certificate, identity.key, identity.authority):
        _readable(path)
    try:
        context.load_cert_chain(identity.certificate, identity.key, password=_no_password)
    except (ssl.SSLError, ValueError) as failure:
        raise BadCertificate(f"{identity.certificate} with {identity.key}", str(failure)) from failure
    try:
        context.load_verify_locations(identity.authority)
    except ssl.SSLError as failure:
        raise BadCertificate(identity.authority, str(failure)) from failure
    return context


def _readable(path: str) -> None:
    try:
        with Path(path).open("rb"):
            return
    except OSError as failure:
        raise BadCertificate(path, failure.strerror or str(failure)) from failure


def _no_password() -> str:
    """Refuse, where OpenSSL would ask the terminal and wait."""
    raise ValueError("the key is encrypted, and a daemon has nobody to ask for its password")
