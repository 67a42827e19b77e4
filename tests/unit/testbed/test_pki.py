"""Certificates that a client and a server of the standard library accept, and kubeconfigs that stand alone."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from pathlib import Path

import pytest

from testbed.pki import Authority, write_kubeconfig


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.issue("server", "kube-apiserver", hosts=["localhost", "127.0.0.1"])
    made.issue("client", "somebody", "some:group")
    return made


def _handshake(folder: Path, name: str, trust: Path | None = None) -> dict[str, object]:
    """The client's certificate as the server saw it."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(trust or folder / "ca.crt"))
    client.load_cert_chain(folder / "client.crt", folder / "client.key")
    seen: dict[str, object] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            try:
                with server.wrap_socket(connection, server_side=True) as secured:
                    seen.update(secured.getpeercert() or {})
                    secured.recv(1)
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname()) as plain,
                client.wrap_socket(plain, server_hostname=name) as secured,
            ):
                secured.send(b"x")
        finally:
            thread.join()
    return seen


def test_both_sides_verify_each_other_and_the_group_is_the_organization(authority: Authority) -> None:
    subject = _handshake(authority.folder, "localhost")["subject"]
    assert sorted(subject, key=str) == [(("commonName", "somebody"),), (("organizationName", "some:group"),)]  # type: ignore[call-overload]


def test_a_name_that_was_not_issued_is_refused(authority: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        _handshake(authority.folder, "other.example")


def test_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(authority.folder, "localhost", trust=other.folder / "ca.crt")


def test_keys_are_readable_by_their_owner_only(authority: Authority) -> None:
    authority.service_account_key()
    for key in authority.folder.glob("*.key"):
        assert key.stat().st_mode & 0o077 == 0, key


def test_a_kubeconfig_needs_no_other_file(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, "https://127.0.0.1:1", authority.folder, "client")
    assert path.stat().st_mode & 0o077 == 0
    config = json.loads(path.read_text())
    embedded = base64.b64decode(config["users"][0]["user"]["client-certificate-data"])
    assert embedded == (authority.folder / "client.crt").read_bytes()
    assert config["current-context"] == config["contexts"][0]["name"]
