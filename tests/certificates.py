"""
Certificates for tests, issued by a certificate authority of their own.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


def named(name: str) -> x509.Name:
    """
    A subject with this common name.
    """
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@define(eq=False)
class Issued:
    """
    A certificate and its key.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, path: Path, *chain: "Issued") -> Path:
        """
        Write the key, the certificate and its chain into one file.
        """
        path.touch(0o600)
        path.write_bytes(self.keyPEM() + self.pem(*chain))
        return path

    def pem(self, *chain: "Issued") -> bytes:
        """
        The certificate, and others after it, as PEM.
        """
        return b"".join(each.certificate.public_bytes(PEM) for each in (self, *chain))

    def keyPEM(self, passphrase: bytes = b"") -> bytes:
        """
        The key as PEM, unencrypted unless there is a passphrase.
        """
        return self.key.private_bytes(
            PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase)
            if passphrase
            else serialization.NoEncryption(),
        )


@define(eq=False)
class Authority:
    """
    A certificate authority.
    """

    name: str
    issued: Issued = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.issued = self.issue(self.name, isAuthority=True, by=None)

    def issue(
        self,
        name: str = "localhost",
        *,
        seconds: float = 3600,
        isAuthority: bool = False,
        by: Issued | str | None = "own",
    ) -> Issued:
        """
        Issue a certificate that is valid for so many seconds from now on.

        @param by: The authority that signs it; L{None} is this one.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        signer = self.issued if by == "own" else by
        assert not isinstance(signer, str)
        issuer = named(name) if signer is None else signer.certificate.subject
        signing = key if signer is None else signer.key
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=30))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(isAuthority, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName("localhost")]),
                critical=False,
            )
            # Python 3.13 requires these three extensions.
            .add_extension(_usage(isAuthority), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    signing.public_key()
                ),
                critical=False,
            )
            .sign(signing, hashes.SHA256())
        )
        return Issued(certificate, key)


def _usage(isAuthority: bool) -> x509.KeyUsage:
    """
    The key usage: signing certificates, or TLS.
    """
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=isAuthority,
        crl_sign=isAuthority,
        encipher_only=False,
        decipher_only=False,
    )
