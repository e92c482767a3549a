"""Files say that they are synthetic: in their metadata, and under a signature."""

import datetime

import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.provenance import (
    COMPOSITE,
    GENERATED,
    load_signing,
    read_credentials,
    synthetic_tags,
)
from gen1_jax.video.splicing import splice_video
from gen1_jax.video.tags import read_tags

FRAMES = np.random.default_rng(0).integers(0, 256, (14, 16, 32, 3), np.uint8)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a"])
def test_metadata_says_synthetic(tmp_path, name):
    tags = synthetic_tags(is_composite=True)
    write_video(tmp_path / name, FRAMES, 10, tags=tags)
    assert read_tags(tmp_path / name) == tags and tags["digital_source_type"] == COMPOSITE
    assert len(read_video(tmp_path / name)) == 14
    if name != "a.gif":  # other programs look for it in XMP
        file = tmp_path / name / "00000.png" if name == "a" else tmp_path / name
        assert b'Iptc4xmpExt:DigitalSourceType="' + COMPOSITE.encode() in file.read_bytes()


def test_a_section_that_is_made_anew_keeps_what_is_said(tmp_path):
    write_video(tmp_path / "a.mp4", FRAMES, 10, tags=synthetic_tags())
    splice_video(tmp_path / "a.mp4", tmp_path / "b.mp4", (12, 14), FRAMES[:2])
    assert read_tags(tmp_path / "b.mp4") == synthetic_tags()
    assert (tmp_path / "b.mp4").read_bytes().count(GENERATED.encode()) == 2


# ---- content credentials


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    """A certificate and its key, which an authority of the test's own has signed."""
    pytest.importorskip("c2pa", reason="needs the extra `credentials`")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)

    def make(name, issuer, key, issuer_key, is_authority):
        names = [
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, each),
                    x509.NameAttribute(NameOID.COMMON_NAME, each),
                ]
            )
            for each in (name, issuer)
        ]
        usage = [not is_authority, *[False] * 4, is_authority, is_authority, False, False]
        own, above = key.public_key(), issuer_key.public_key()
        extensions = [
            (x509.BasicConstraints(is_authority, None), True),
            (x509.KeyUsage(*usage), True),
            (x509.SubjectKeyIdentifier.from_public_key(own), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(above), False),
        ]
        if not is_authority:
            extensions.append(
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
            )
        builder = x509.CertificateBuilder(
            names[1], names[0], own, x509.random_serial_number(),
            now - datetime.timedelta(1), now + datetime.timedelta(1),
        )  # fmt: skip
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        signed = builder.sign(issuer_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    folder = tmp_path_factory.mktemp("signer")
    above = make("Authority", "Authority", authority, authority, True)
    (folder / "chain.pem").write_bytes(make("Someone", "Authority", key, authority, False) + above)
    for name, each in (("key.pem", key), ("other.pem", authority)):
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        text = each.private_bytes(serialization.Encoding.PEM, *form)
        (folder / name).write_bytes(text)
    return folder


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_credentials_are_signed_and_break_with_a_change(tmp_path, signer, suffix):
    signing = load_signing(signer / "chain.pem", signer / "key.pem")
    plain, path = tmp_path / f"plain{suffix}", tmp_path / f"a{suffix}"
    write_video(plain, FRAMES, 10, tags=synthetic_tags())
    write_video(path, FRAMES, 10, tags=synthetic_tags(), signing=signing)
    assert read_credentials(plain) is None
    expected = {"state": "Valid", "issuer": "Someone", "source type": GENERATED}
    assert read_credentials(path) == expected and read_tags(path) == synthetic_tags()
    np.testing.assert_array_equal(read_video(path).frames, read_video(plain).frames)
    assert len(list(tmp_path.iterdir())) == 2
    data = bytearray(path.read_bytes())
    at = data.rindex(b"Synthetic")
    data[at : at + 4] = b"edit"
    path.write_bytes(data)
    assert read_credentials(path)["state"] == "Invalid"


def test_what_cannot_sign_is_refused(tmp_path, signer):
    for certificate, key, words in (
        ("none.pem", "key.pem", "none.pem: cannot be read"),
        ("key.pem", "key.pem", "is no certificate in PEM"),
        ("chain.pem", "chain.pem", "is no private key in PEM"),
        ("chain.pem", "other.pem", "is not the key of"),
    ):
        with pytest.raises(UserError, match=words):
            load_signing(signer / certificate, signer / key)
    signing = load_signing(signer / "chain.pem", signer / "key.pem")
    with pytest.raises(UserError, match="takes no content credentials"):
        write_video(tmp_path / "folder", FRAMES, 10, signing=signing)
    assert not list(tmp_path.iterdir())
