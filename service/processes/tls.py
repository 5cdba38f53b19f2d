"""TLS on our own port, for those who have no proxy that does it.

In: a certificate and its key in PEM, and for clients that must show one too (mTLS) who may sign theirs.
Out: a context for the server's sockets, or a TlsError in one sentence.
"""

import ssl

from service.settings import Settings


class TlsError(Exception):
    """A certificate, key or list of authorities that cannot be used."""


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context that the settings ask for, TLS 1.2 or later; None for plain HTTP."""
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(f"{settings.tls_certificate}: {_reason(error)}") from None
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"{settings.tls_client_ca}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a certificate and its private key in PEM ({error.reason or error})"
    return error.strerror or str(error)
