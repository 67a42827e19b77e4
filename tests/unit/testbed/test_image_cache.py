"""What is kept of images, and what goes when newer ones come."""

from __future__ import annotations

from pathlib import Path

from testbed.images import REGISTRY, BuiltImage, remove_older


def test_older_archives_of_the_same_image_go_and_namesakes_stay(tmp_path: Path) -> None:
    for name in ("envoy-0123456789ab.tar", "envoy-ffffffffffff.tar", "envoy-gateway-0123456789ab.tar", "notes.txt"):
        (tmp_path / name).touch()
    remove_older(BuiltImage(f"{REGISTRY}/envoy:ffffffffffff", tmp_path / "envoy-ffffffffffff.tar"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["envoy-ffffffffffff.tar", "envoy-gateway-0123456789ab.tar", "notes.txt"]
