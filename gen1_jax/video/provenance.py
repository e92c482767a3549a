"""What a file says of where it comes from: that it is synthetic, and who signs for that.

Tags say it in the metadata, with the term of the IPTC's list of digital source types. Content
credentials (C2PA) say it in a signed manifest, which also shows whether the file was changed since.
They need the extra `credentials`, and a certificate and key of the user's own.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image

from gen1_jax import __version__
from gen1_jax.errors import UserError, one_line

# https://cv.iptc.org/newscodes/digitalsourcetype/
_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = f"{_TERMS}trainedAlgorithmicMedia"
COMPOSITE = f"{_TERMS}compositeWithTrainedAlgorithmicMedia"  # beside pixels of a source
SOURCE_TYPE = "digital_source_type"  # the tag


class Signing(NamedTuple):
    """What a file is signed with.

    Attributes:
      algorithm: C2PA's name of it.
      certificates: the signer's certificate and those above it, in PEM.
      key: the private key, in PEM.
    """

    algorithm: str
    certificates: bytes
    key: bytes


def synthetic_tags(is_composite: bool = False) -> dict[str, str]:
    """Returns the tags of a file that a model made, or composed with pixels of a source."""
    return {
        "comment": f"Synthetic: made by a generative model with gen1-jax {__version__}",
        "software": f"gen1-jax {__version__}",
        SOURCE_TYPE: COMPOSITE if is_composite else GENERATED,
    }


def load_signing(certificate: str | os.PathLike, key: str | os.PathLike) -> Signing:
    """Reads a certificate chain and a private key.

    Args:
      certificate: a PEM file, the signer's certificate first.
      key: a PEM file, without a password. EC (P-256, P-384, P-521), RSA and Ed25519 are accepted.

    Raises:
      UserError: the extra is not installed, a file cannot be read, the two do not belong together,
        or C2PA does not accept them.
    """
    c2pa = _import_c2pa()
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    texts = []
    for path in (certificate, key):
        try:
            texts.append(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
    try:
        first = x509.load_pem_x509_certificate(texts[0])
    except ValueError as error:
        raise UserError(f"{certificate}: is no certificate in PEM") from error
    try:
        private = serialization.load_pem_private_key(texts[1], password=None)
    except (ValueError, TypeError) as error:
        raise UserError(f"{key}: is no private key in PEM without a password") from error
    algorithm = None
    if isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = {256: "es256", 384: "es384", 521: "es512"}.get(private.key_size)
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = "ps256"
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    if algorithm is None:
        raise UserError(f"{key}: accepted are keys of P-256, P-384, P-521, RSA and Ed25519")
    if first.public_key() != private.public_key():
        raise UserError(f"{key}: is not the key of {certificate}, whose signer's stands first")
    signing = Signing(algorithm, *texts)
    try:  # on a picture, because a certificate is checked in signing alone
        with io.BytesIO() as picture, io.BytesIO() as signed:
            Image.new("L", (1, 1)).save(picture, "PNG")
            _sign(signing, GENERATED, "image/png", picture, signed)
    except c2pa.C2paError as error:
        raise UserError(f"{certificate}: C2PA does not accept it: {one_line(error)}") from error
    return signing


def sign_file(path: Path, signing: Signing, tags: Mapping[str, str]) -> None:
    """Adds content credentials to a file that is being written.

    Args:
      path: an mp4, gif or webp.
      signing: what it is signed with.
      tags: the file's tags.

    Raises:
      UserError: C2PA does not sign it.
    """
    c2pa = _import_c2pa()
    signed = path.with_name(f"{path.stem}.signed{path.suffix}")
    kind = {".mp4": "video/mp4"}.get(path.suffix.lower(), f"image/{path.suffix.lower()[1:]}")
    try:
        with path.open("rb") as file, signed.open("w+b") as result:
            _sign(signing, tags.get(SOURCE_TYPE, GENERATED), kind, file, result)
        os.replace(signed, path)
    except c2pa.C2paError as error:
        raise UserError(f"the file cannot be signed: {one_line(error)}") from error
    finally:
        signed.unlink(missing_ok=True)


def read_credentials(path: Path) -> dict[str, str] | None:
    """Returns what a file's content credentials say; None if it has none.

    `state` is "Invalid" if the file was changed after it was signed, else "Valid", or "Trusted" if
    C2PA's settings trust the signer. `issuer` and `source type` are there where they are named.

    Raises:
      UserError: the extra is not installed.
    """
    c2pa = _import_c2pa()
    try:
        reader = c2pa.Reader.try_create(path)
        if reader is None:
            return None
        with reader:
            found = {"state": str(reader.get_validation_state())}
            manifest = reader.get_active_manifest() or {}
    except c2pa.C2paError:  # a format that has no credentials, or a damaged manifest
        return None
    if issuer := manifest.get("signature_info", {}).get("issuer"):
        found["issuer"] = issuer
    for assertion in manifest.get("assertions", []):
        for action in assertion.get("data", {}).get("actions", []):
            if "digitalSourceType" in action:
                found["source type"] = action["digitalSourceType"]
    return found


def _import_c2pa() -> Any:
    try:
        import c2pa
    except ImportError:
        raise UserError(
            "content credentials need c2pa-python; pip install -e '.[credentials]' adds it"
        ) from None
    return c2pa


def _sign(signing: Signing, term: str, kind: str, source: IO[bytes], signed: IO[bytes]) -> None:
    """Copies a file of a MIME type with a manifest that says what made it."""
    c2pa = _import_c2pa()
    agent = {"name": "gen1-jax", "version": __version__}
    action = {"action": "c2pa.created", "softwareAgent": agent, "digitalSourceType": term}
    manifest = {
        "claim_generator_info": [agent],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    settings = {"builder": {"thumbnail": {"enabled": False}}}  # of a gif it is the whole file
    info = c2pa.C2paSignerInfo(*signing, None)
    with c2pa.Context.from_dict(settings) as context, c2pa.Signer.from_info(info) as signer:
        c2pa.Builder(manifest, context).sign(signer, kind, source, signed)
