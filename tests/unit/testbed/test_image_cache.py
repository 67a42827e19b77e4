"""What is kept of images, and what goes when newer ones come."""

from __future__ import annotations

from pathlib import Path

from testbed.containerd import both_names, superseded
from testbed.images import REGISTRY, BuiltImage, remove_older


def test_older_archives_of_the_same_image_go_and_namesakes_stay(tmp_path: Path) -> None:
    for name in ("envoy-0123456789ab.tar", "envoy-ffffffffffff.tar", "envoy-gateway-0123456789ab.tar", "notes.txt"):
        (tmp_path / name).touch()
    remove_older(BuiltImage(f"{REGISTRY}/envoy:ffffffffffff", tmp_path / "envoy-ffffffffffff.tar"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["envoy-ffffffffffff.tar", "envoy-gateway-0123456789ab.tar", "notes.txt"]


LISTED = f"""REF TYPE DIGEST SIZE PLATFORMS LABELS
{REGISTRY}/envoy:0123456789ab manifest sha256:aa 104.9 MiB linux/amd64 managed
{REGISTRY}/operator:111111111111 manifest sha256:bb 382.2 MiB linux/amd64 managed
docker.io/library/other:1 manifest sha256:cc 1.0 MiB linux/amd64 managed
sha256:0a manifest sha256:aa 104.9 MiB linux/amd64 managed
sha256:0b manifest sha256:bb 382.2 MiB linux/amd64 managed
sha256:0c manifest sha256:cc 1.0 MiB linux/amd64 managed
sha256:0d manifest sha256:dd 5.8 GiB linux/amd64 managed
"""
"""What `ctr images list` prints."""


def test_an_image_whose_archive_is_gone_goes_with_the_second_name_that_it_has() -> None:
    assert superseded(LISTED, {"envoy-0123456789ab"}) == [f"{REGISTRY}/operator:111111111111", "sha256:0b", "sha256:0d"]


def test_an_image_is_taken_out_under_both_names_unless_another_has_the_same_content() -> None:
    operator = f"{REGISTRY}/operator:111111111111"
    assert both_names(LISTED, operator) == [operator, "sha256:0b"]
    assert both_names(LISTED + f"{REGISTRY}/same:1 manifest sha256:bb 382.2 MiB -", operator) == [operator]
    assert both_names(LISTED, f"{REGISTRY}/operator:222222222222") == []
