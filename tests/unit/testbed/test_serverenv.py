import mmap
from pathlib import Path

from testbed.serverenv import in_use, name_for, superseded


def checkout(folder: Path, lock: str = "a", linter: int = 80, extra: str = "vllm") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "uv.lock").write_text(lock)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "p"\n[project.optional-dependencies]\nserver = ["{extra}"]\n'
        f"[tool.ruff]\nline-length = {linter}\n"
    )
    return folder


def environment(root: Path, name: str, owner: Path | None) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    if owner is not None:
        (folder / ".complete").write_text(str(owner))
    return folder


def test_an_environment_is_named_by_its_checkout_and_what_it_is_made_of(tmp_path: Path) -> None:
    one, other = checkout(tmp_path / "one"), checkout(tmp_path / "other")
    before = name_for(one)
    assert name_for(other) != before == name_for(checkout(one))
    assert name_for(checkout(one, lock="b")) != before
    assert name_for(checkout(one, extra="other")) != before
    assert name_for(checkout(one, linter=120)) == before


def test_only_what_nobody_needs_is_superseded(tmp_path: Path) -> None:
    mine, theirs = checkout(tmp_path / "mine"), checkout(tmp_path / "theirs")
    root = tmp_path / "envs"
    current = environment(root, "server-1", mine)
    former = environment(root, "server-2", mine)
    environment(root, "server-3", theirs)
    gone = environment(root, "server-4", tmp_path / "gone")
    unfinished = environment(root, "server-5", None)
    (root / "server.lock").touch()
    environment(root, "trainer-1", None)
    assert superseded(root, current, mine) == [former, gone, unfinished]


def test_what_a_process_has_mapped_is_in_use(tmp_path: Path) -> None:
    folder = environment(tmp_path, "server-1", None)
    (folder / "library").write_bytes(b"x" * 4096)
    assert not in_use(folder)
    with (folder / "library").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert in_use(folder)
    assert not in_use(folder)
